//! The watcher.
use crate::config::{Site, Table};
/// placeholder until merged
#[derive(Debug, Clone)]
pub struct Config;
impl Config {
    /// placeholder until merged
    pub fn read(_: &mut Table, _: &Site) -> Option<Config> {
        None
    }
}
/// placeholder until merged
pub async fn run(_: Config, _: super::Unit) -> anyhow::Result<()> {
    Ok(())
}
