//! Working only where a virtual address lives: the host's interface list, read every 250 ms.

use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::watch;
use tracing::{info, warn};

use super::Unit;
use super::sample::Sampler;

const EVERY: Duration = Duration::from_millis(250);

/// Whether `vip` is among `addresses`.
pub fn has_vip(addresses: &[IpAddr], vip: IpAddr) -> bool {
    addresses.contains(&vip)
}

/// A gate that is open while this host has `vip`; always open without one. Ends with the unit.
pub fn gate(unit: &Unit, vip: Option<IpAddr>) -> watch::Receiver<bool> {
    let Some(vip) = vip else {
        return watch::Sender::new(true).subscribe();
    };
    let (here, gate) = watch::channel(false);
    let unit = unit.clone();
    unit.state.set_standby(true);
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(EVERY);
        let samples = Sampler::default();
        while unit.stop.run_until_cancelled(tick.tick()).await.is_some() {
            match if_addrs::get_if_addrs() {
                Ok(interfaces) => {
                    let addresses: Vec<IpAddr> = interfaces.iter().map(if_addrs::Interface::ip).collect();
                    let is_here = has_vip(&addresses, vip);
                    if here.send_if_modified(|before| std::mem::replace(before, is_here) != is_here) {
                        unit.state.set_standby(!is_here);
                        let does = if is_here {
                            "is here: working"
                        } else {
                            "is elsewhere: standing by"
                        };
                        info!(%vip, "the address {does}");
                    }
                }
                Err(error) => {
                    let said = format!("cannot read the interface list: {error}; as before");
                    if let Some(unsaid) = samples.take(&said) {
                        warn!(unsaid, "{said}");
                    }
                }
            }
        }
    });
    gate
}
