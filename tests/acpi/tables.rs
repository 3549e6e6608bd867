//! Tables, byte by byte.

use pci_remap::acpi::{Fault, RootTable, Signature, TableError};

/// A table with this body and a good checksum.
pub(crate) fn table(signature: [u8; 4], body: &[u8]) -> Vec<u8> {
    let mut bytes = signature.to_vec();
    bytes.extend(u32::try_from(36 + body.len()).unwrap().to_le_bytes());
    bytes.extend(*b"\x01\0BOCHS BXPC    \x01\0\0\0BXPC\x01\0\0\0");
    bytes.extend(body);
    seal(&mut bytes, 9);
    bytes
}

/// Makes all bytes sum to zero by the one at `checksum`.
pub(crate) fn seal(bytes: &mut [u8], checksum: usize) {
    bytes[checksum] = 0;
    bytes[checksum] = bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_sub(*byte));
}

pub(crate) fn rsdt(entries: &[u32]) -> Vec<u8> {
    table(*b"RSDT", &entries.iter().flat_map(|entry| entry.to_le_bytes()).collect::<Vec<_>>())
}

pub(crate) fn xsdt(entries: &[u64]) -> Vec<u8> {
    table(*b"XSDT", &entries.iter().flat_map(|entry| entry.to_le_bytes()).collect::<Vec<_>>())
}

pub(crate) fn entries(root: &[u8]) -> Vec<u64> {
    RootTable::parse(root).unwrap().entries().collect()
}

/// As UEFI has it.
pub(crate) fn rsdp_2(rsdt: u32, xsdt: u64) -> Vec<u8> {
    let mut bytes = rsdp_0(rsdt);
    bytes[15] = 2;
    seal(&mut bytes[..20], 8);
    bytes.extend(36_u32.to_le_bytes());
    bytes.extend(xsdt.to_le_bytes());
    bytes.extend([0; 4]);
    seal(&mut bytes, 32);
    bytes
}

/// As SeaBIOS has it.
pub(crate) fn rsdp_0(rsdt: u32) -> Vec<u8> {
    let mut bytes = b"RSD PTR \0BOCHS \0".to_vec();
    bytes.extend(rsdt.to_le_bytes());
    seal(&mut bytes, 8);
    bytes
}

pub(crate) fn fault(signature: [u8; 4], offset: usize, fault: Fault) -> TableError {
    TableError { table: Signature(signature), offset, fault }
}

/// As QEMU's q35 has it: one window for 256 buses.
pub(crate) fn mcfg(allocations: &[(u64, u16, u8, u8)]) -> Vec<u8> {
    let mut body = vec![0; 8];
    for (base, segment, first, last) in allocations {
        body.extend(base.to_le_bytes());
        body.extend(segment.to_le_bytes());
        body.extend([*first, *last, 0, 0, 0, 0]);
    }
    table(*b"MCFG", &body)
}
