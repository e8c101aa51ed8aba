//! Ports of 127.0.0.1 that no other test, and no client's connection, gets while this process lives.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::IntoRawFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};

/// A port nobody listens on until the caller's server does, which may stop and start there again.
///
/// A socket is bound to it until this process ends. It never listens, so that who connects is refused; it was bound
/// without `SO_REUSEADDR`, so that no second call gets the port, and has it now, so that servers, which all set it, may
/// bind there beside it (Linux allows this while no socket of the port listens).
pub fn free_port() -> u16 {
    loop {
        // Below the range from which the kernel gives ports to clients: those would be in use now and then.
        let port = fastrand::u16(12000..32000);
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).expect("socket");
        if bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)).is_ok() {
            sockopt::set_socket_reuseaddr(&socket, true).expect("SO_REUSEADDR");
            let _held = socket.into_raw_fd();
            return port;
        }
    }
}
