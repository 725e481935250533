//! Moving bytes between two sockets inside the kernel, through a pipe.
//!
//! Worth its system calls for bulk only: a pipe is taken when bulk is seen and given back when the source pauses. Pipes are
//! kept per thread, for making one costs more than what it saves on a short body. Runs on: workers.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe2;

/// What one move may take: the most an unprivileged process may give a pipe.
pub(super) const PIPE_SIZE: usize = 1 << 20;
/// Pipes a thread keeps for later.
const KEPT: usize = 16;

thread_local! {
    static PIPES: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

/// A pipe with what is in it.
#[derive(Debug)]
pub(super) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    len: usize,
}

impl Pipe {
    /// An empty pipe.
    ///
    /// # Errors
    /// No descriptors are left.
    pub(super) fn take() -> io::Result<Pipe> {
        if let Some(pipe) = PIPES.with_borrow_mut(Vec::pop) {
            return Ok(pipe);
        }
        let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        // Beyond its share of pipe memory a user gets smaller ones: slower, not wrong.
        if let Ok(size) = i32::try_from(PIPE_SIZE) {
            let _ = fcntl(&write, FcntlArg::F_SETPIPE_SZ(size));
        }
        Ok(Pipe { read, write, len: 0 })
    }

    /// Gives it back. One that is not empty is closed.
    pub(super) fn give_back(self) {
        if self.len == 0 {
            PIPES.with_borrow_mut(|pipes| {
                if pipes.len() < KEPT {
                    pipes.push(self);
                }
            });
        }
    }

    /// Bytes in it.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Moves what the socket has into the pipe, which must be empty: it is then never the pipe that blocks. 0: end of stream.
    ///
    /// # Errors
    /// Those of the socket.
    pub(super) fn fill(&mut self, socket: &impl AsFd) -> io::Result<usize> {
        self.len = splice(socket.as_fd(), None, &self.write, None, PIPE_SIZE, flags())?;
        Ok(self.len)
    }

    /// Moves what is in the pipe into the socket, as far as that takes it.
    ///
    /// # Errors
    /// Those of the socket.
    pub(super) fn drain(&mut self, socket: &impl AsFd) -> io::Result<usize> {
        let n = splice(&self.read, None, socket.as_fd(), None, self.len, flags())?;
        self.len -= n;
        Ok(n)
    }
}

fn flags() -> SpliceFFlags {
    SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (a, b) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (a.unwrap(), b.unwrap().0)
    }

    #[tokio::test]
    async fn moves_bytes_and_returns_pipes() {
        let ((mut client, from), (to, mut server)) = (pair().await, pair().await);
        let mut pipe = Pipe::take().unwrap();
        assert_eq!(from.try_io(Interest::READABLE, || pipe.fill(&from)).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        client.write_all(b"hello").await.unwrap();
        from.readable().await.unwrap();
        assert_eq!(pipe.fill(&from).unwrap(), 5);
        to.writable().await.unwrap();
        assert_eq!(pipe.drain(&to).unwrap(), 5);
        let mut got = [0; 5];
        server.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"hello");
        client.shutdown().await.unwrap();
        from.readable().await.unwrap();
        assert_eq!(pipe.fill(&from).unwrap(), 0, "end of stream");
        let kept = || PIPES.with_borrow(Vec::len);
        let before = kept();
        pipe.give_back();
        assert_eq!(kept(), before + 1);
        let mut used = Pipe::take().unwrap();
        used.len = 1;
        used.give_back();
        assert_eq!(kept(), before, "what is not empty is not kept");
    }
}
