//! The wire formats: captured messages in both directions, hostile ones, and what must hold for all.

mod hostile;
mod properties;
mod samples;
mod support;
