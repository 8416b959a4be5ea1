//! Telling whoever started this process that it serves now.
//!
//! The protocol is systemd's: the environment variable `NOTIFY_SOCKET` names a datagram socket, by
//! path or, after an `@`, in the abstract namespace, and `READY=1` is sent there (sd_notify(3)). The
//! local runtime waits for it when it upgrades a sidecar.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The variable that names the socket.
pub const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

/// What is sent when the process serves.
pub const READY: &[u8] = b"READY=1";

/// Says that the process serves.
///
/// # Errors
/// When the socket cannot be reached, with its name in the text.
pub fn ready(socket: &str) -> io::Result<()> {
    let send = || {
        let address = match socket.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(socket)?,
        };
        UnixDatagram::unbound()?.send_to_addr(READY, &address)
    };
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{socket}: {error}"));
    send().map(drop).map_err(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, address: &SocketAddr) {
        let socket = UnixDatagram::bind_addr(address).expect("bind");
        ready(name).expect("send");
        let mut buffer = [0; 16];
        let length = socket.recv(&mut buffer).expect("receive");
        assert_eq!(&buffer[..length], READY);
    }

    #[test]
    fn arrives_at_paths_and_abstract_names() {
        let name = format!("hauberk-notify-{}", std::process::id());
        check(&format!("@{name}"), &SocketAddr::from_abstract_name(&name).expect("a name"));
        let path = std::env::temp_dir().join(&name);
        let _ = std::fs::remove_file(&path);
        let text = path.to_str().expect("a plain path");
        check(text, &SocketAddr::from_pathname(&path).expect("a path"));
        std::fs::remove_file(&path).expect("remove the socket");
        let error = ready(text).expect_err("nobody is there");
        assert!(error.to_string().starts_with(text), "{error}");
    }
}
