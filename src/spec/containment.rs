//! Downstream Port Containment (7.9.14). DWORD indices are relative to the capability.

/// DPC Capability (15:0) and DPC Control (31:16).
pub const CONTROL: u16 = 1;
/// DPC Status (15:0) and DPC Error Source ID (31:16).
pub const STATUS: u16 = 2;

/// DPC Error Source ID, in the DWORD of DPC Status.
pub const ERROR_SOURCE: u32 = 0xffff_0000;

/// DPC Software Triggering Supported in DPC Capability.
pub const SOFTWARE_TRIGGERING_SUPPORTED: u32 = 1 << 7;
/// DPC Trigger Enable, in the DWORD of DPC Control.
pub const TRIGGER_ENABLE: u32 = 0b11 << 16;
/// DPC Software Trigger, in the DWORD of DPC Control; reads zero.
pub const SOFTWARE_TRIGGER: u32 = 1 << 22;
/// DPC Trigger Status in DPC Status: the link is kept down until a one is written.
pub const TRIGGER_STATUS: u32 = 1 << 0;
