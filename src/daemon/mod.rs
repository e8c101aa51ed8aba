//! Being a process.
