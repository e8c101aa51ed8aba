//! Working only where a virtual address lives: the host's interface list, read whenever the kernel says that an address
//! has come or gone, and every 2 s all the same. Where the kernel tells nothing it is read every 250 ms.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
use tokio::net::UnixDatagram;
use tokio::sync::watch;
use tracing::{info, warn};

use super::Unit;
use super::sample::Sampler;
use super::standby::{CATCHING_UP, Standby};

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
    match vip {
        Some(vip) => gate_of(unit, vip, None),
        None => watch::Sender::new(true).subscribe(),
    }
}

/// A gate that is open while this host has `vip`, once what the other host has forwarded is known. It shuts at once when
/// the address goes. Ends with the unit.
pub fn warm_gate(unit: &Unit, vip: IpAddr, standby: Arc<Standby>) -> watch::Receiver<bool> {
    gate_of(unit, vip, Some(standby))
}

fn gate_of(unit: &Unit, vip: IpAddr, standby: Option<Arc<Standby>>) -> watch::Receiver<bool> {
    let (open, gate) = watch::channel(false);
    let (tell_here, here) = watch::channel(None);
    tokio::spawn(keep_looking(unit.clone(), vip, tell_here));
    tokio::spawn(keep_gate(unit.clone(), vip, here, standby, open));
    gate
}

/// Opens and shuts. `here` is nothing before the first look, and ends with the unit.
async fn keep_gate(
    unit: Unit,
    vip: IpAddr,
    mut here: watch::Receiver<Option<bool>>,
    standby: Option<Arc<Standby>>,
    open: watch::Sender<bool>,
) {
    unit.state
        .set_role(false, format!("it is not known yet whether {vip} is on this host"));
    while let Ok(is_here) = here.wait_for(Option::is_some).await.map(|here| *here == Some(true)) {
        if !is_here {
            unit.state.set_role(false, format!("{vip} is not on this host"));
            info!(%vip, "the address is elsewhere: standing by");
            if here.wait_for(|here| *here == Some(true)).await.is_err() {
                return;
            }
        }
        let why = format!("{vip} is on this host");
        if let Some(standby) = &standby {
            unit.state.set_role(false, format!("{why}: {CATCHING_UP}"));
            tokio::select! {
                biased;
                gone = here.wait_for(|here| *here == Some(false)) => match gone {
                    Ok(_) => continue,
                    Err(_) => return,
                },
                () = standby.catch_up() => {}
            }
        }
        unit.state.set_role(true, why);
        info!(%vip, "the address is here: working");
        open.send_replace(true);
        if here.wait_for(|here| *here == Some(false)).await.is_err() {
            return;
        }
        open.send_replace(false);
    }
}

async fn keep_looking(unit: Unit, vip: IpAddr, here: watch::Sender<Option<bool>>) {
    let notices = Notices::open();
    if let Err(error) = &notices {
        info!("the kernel tells nothing of addresses ({error}): the interface list is read every {UNTOLD:?}");
    }
    let notices = notices.ok();
    let mut tick = tokio::time::interval(if notices.is_some() { TOLD } else { UNTOLD });
    let samples = Sampler::default();
    loop {
        tokio::select! {
            biased;
            () = unit.stop.cancelled() => return,
            () = next(notices.as_ref()) => {}
            _ = tick.tick() => {}
        }
        match if_addrs::get_if_addrs() {
            Ok(interfaces) => {
                let addresses: Vec<IpAddr> = interfaces.iter().map(if_addrs::Interface::ip).collect();
                let is_here = Some(has_vip(&addresses, vip));
                here.send_if_modified(|before| std::mem::replace(before, is_here) != is_here);
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
