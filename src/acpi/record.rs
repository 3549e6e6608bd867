//! Rows of records that each say how long they are, and what new rows are written to.

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::table::{Fault, Signature, TableError, resize};

/// A record, and where in its table it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) offset: usize,
    pub(super) bytes: &'a [u8],
}

impl<'a> Record<'a> {
    /// The layout it starts with.
    pub(super) fn start<T: FromBytes + Immutable + KnownLayout + Unaligned>(self) -> Option<&'a T> {
        T::ref_from_prefix(self.bytes).ok().map(|(start, _)| start)
    }

    /// The first bytes, and the row of records after them.
    pub(super) fn split(self, at: usize, length: Length) -> Option<(&'a [u8], Row<'a>)> {
        let (head, rest) = self.bytes.split_at_checked(at)?;
        Some((head, Row { offset: self.offset.saturating_add(at), rest, length }))
    }
}

/// Bytes of the record these bytes start with; `Err` holds what it says where that cannot be.
pub(super) type Length = fn(&[u8]) -> Result<usize, usize>;

/// A length that must not be smaller than this.
pub(super) const fn at_least(smallest: usize, length: usize) -> Result<usize, usize> {
    if length < smallest { Err(length) } else { Ok(length) }
}

/// A row of records. After one that cannot be, which is the `Err`, there are no more.
#[derive(Debug, Clone)]
pub(super) struct Row<'a> {
    offset: usize,
    rest: &'a [u8],
    length: Length,
}

/// Where a record is that cannot be, and how long it says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadRecord {
    offset: usize,
    length: usize,
}

impl BadRecord {
    pub(super) fn of(self, table: Signature) -> TableError {
        Fault::BadLength(u32::try_from(self.length).unwrap_or(u32::MAX)).of(table, self.offset)
    }
}

impl<'a> Iterator for Row<'a> {
    type Item = Result<Record<'a>, BadRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let offset = self.offset;
        let length = (self.length)(self.rest);
        let record = length.ok().and_then(|length| self.rest.split_at_checked(length));
        let Some((bytes, rest)) = record.filter(|(bytes, _)| !bytes.is_empty()) else {
            self.rest = &[];
            return Some(Err(BadRecord { offset, length: length.unwrap_or_else(|stated| stated) }));
        };
        self.offset = offset.saturating_add(bytes.len());
        self.rest = rest;
        Some(Ok(Record { offset, bytes }))
    }
}

/// A table that is being written into the caller's buffer. What has no room is counted all the same, so that the
/// error can say how much is needed.
#[derive(Debug)]
pub(super) struct Output<'b> {
    buffer: &'b mut [u8],
    len: usize,
}

impl<'b> Output<'b> {
    pub(super) fn new(buffer: &'b mut [u8]) -> Self {
        Self { buffer, len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn put(&mut self, bytes: &[u8]) {
        let end = self.len.saturating_add(bytes.len());
        if let Some(room) = self.buffer.get_mut(self.len..end) {
            room.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        }
        self.len = end;
    }

    /// Makes the record that was started there end here. Its length is the 16-bit field two bytes into it.
    pub(super) fn set_length(&mut self, start: usize) -> Result<(), BadRecord> {
        let length = self.len.saturating_sub(start);
        let bytes = u16::try_from(length).map_err(|_| BadRecord { offset: start, length })?.to_le_bytes();
        let field = self.buffer.get_mut(start..).and_then(|record| record.get_mut(2..4)).unwrap_or_default();
        field.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        Ok(())
    }

    /// Number of bytes of the finished table.
    pub(super) fn finish(self, table: Signature) -> Result<usize, TableError> {
        let (needed, given) = (self.len, self.buffer.len());
        match u32::try_from(needed) {
            Ok(length) if needed <= given => resize(self.buffer, length),
            _ => return Err(Fault::NoRoom { needed, given }.of(table, given)),
        }
        Ok(needed)
    }
}
