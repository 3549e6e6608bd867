//! Advanced Error Reporting (7.8.4). DWORD indices are relative to the capability.

/// Error Source Identification of a Root Port: the requester of a correctable error in 15:0, of another in 31:16.
pub const ERROR_SOURCES: u16 = 13;
