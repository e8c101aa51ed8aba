//! Being a process: one unit, one lock, one log, one status file, and the signals that end or reload it.

pub mod lock;
pub mod log;
pub mod process;
pub mod status;
pub mod sundew_lock;
