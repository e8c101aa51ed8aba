//! Working only where a virtual address lives: the host's interface list, read whenever the kernel says that an address
//! has come or gone, and every 2 s all the same. Where the kernel tells nothing it is read every 250 ms.

use std::net::IpAddr;
use std::time::Duration;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
use tokio::net::UnixDatagram;
use tokio::sync::watch;
use tracing::{info, warn};

use super::Unit;
use super::sample::Sampler;

const UNTOLD: Duration = Duration::from_millis(250);
const TOLD: Duration = Duration::from_secs(2);
/// RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR of linux/rtnetlink.h.
const ADDRESSES: u32 = 0x10 | 0x100;

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
    unit.state.set_standby(true);
    tokio::spawn(keep_gate(unit.clone(), vip, here));
    gate
}

async fn keep_gate(unit: Unit, vip: IpAddr, here: watch::Sender<bool>) {
    let notices = Notices::open();
    if let Err(error) = &notices {
        info!("the kernel tells nothing of addresses ({error}): the interface list is read every {UNTOLD:?}");
    }
    let notices = notices.ok();
    let mut tick = tokio::time::interval(if notices.is_some() { TOLD } else { UNTOLD });
    let samples = Sampler::default();
    loop {
        tokio::select! {
            () = unit.stop.cancelled() => return,
            _ = tick.tick() => {}
            () = next(notices.as_ref()) => {}
        }
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
}

async fn next(notices: Option<&Notices>) {
    match notices {
        Some(notices) => notices.next().await,
        None => std::future::pending().await,
    }
}

/// The kernel's notices of addresses that come and go. What they say is not read: the list is. To tokio the netlink
/// socket is one of datagrams like any other.
struct Notices(UnixDatagram);

impl Notices {
    fn open() -> std::io::Result<Notices> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let rtnetlink = None; // protocol 0 of this family
        let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, rtnetlink)?;
        bind(&socket, &SocketAddrNetlink::new(0, ADDRESSES))?;
        Ok(Notices(UnixDatagram::from_std(socket.into())?))
    }

    /// Returns when there was at least one. Safe to drop while waiting.
    async fn next(&self) {
        let mut notice = [0; 4096];
        // An error is a notice too: so many came that some were lost. They all mean the same.
        drop(self.0.recv(&mut notice).await);
        while self.0.try_recv(&mut notice).is_ok() {}
    }
}
