//! [`unacknowledged`]: how much of what was written the peer has not acknowledged.

use rustix::{
    fd::AsFd,
    ioctl::{Getter, Opcode, ioctl},
};

/// The request for the bytes in the send queue of a TCP socket (tcp(7)). It has this number on the
/// architectures below; on others, there is no figure.
const SIOCOUTQ: Opcode = 0x5411;

/// The bytes that were written to a TCP socket and that its peer has not acknowledged, sent or not.
#[expect(unsafe_code, reason = "rustix has no function for this request")]
pub(crate) fn unacknowledged(socket: impl AsFd) -> Option<u64> {
    let is_known = cfg!(any(
        target_arch = "x86_64",
        target_arch = "aarch64",
        target_arch = "riscv64"
    ));
    if !is_known {
        return None;
    }
    // SAFETY: the request writes an `int`, and changes nothing else.
    let bytes: i32 = unsafe { ioctl(socket, Getter::<SIOCOUTQ, i32>::new()) }.ok()?;
    u64::try_from(bytes).ok()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    #[test]
    fn it_falls_while_the_peer_reads() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut writer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut reader, _) = listener.accept().unwrap();
        writer.set_nonblocking(true).unwrap();
        let mut some = vec![0; 64 * 1_024];
        while writer.write(&some).is_ok() {}
        let before = unacknowledged(&writer);
        assert!(before > Some(0));
        assert_eq!(unacknowledged(&writer), before);
        while unacknowledged(&writer) == before {
            reader.read_exact(&mut some).unwrap();
        }
        assert!(unacknowledged(&writer) < before);
    }
}
