//! Guests with real stacks: network namespaces on a bridge.

use super::run;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

const WAIT: Duration = Duration::from_millis(1_000);

type Job = Box<dyn FnOnce() + Send>;

/// A thread that lives in a network namespace of its own and runs what it is given.
pub struct Guest {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    pub id: i32,
}

impl Guest {
    pub fn new() -> Self {
        let (jobs, work): (Sender<Job>, Receiver<Job>) = channel();
        let (tell, told) = channel();
        let thread = std::thread::spawn(move || {
            super::own_namespace();
            tell.send(nix::unistd::gettid().as_raw())
                .expect("the maker waits");
            work.into_iter().for_each(|job| job());
        });
        let id = told.recv().expect("the namespace is made");
        Self {
            jobs: Some(jobs),
            thread: Some(thread),
            id,
        }
    }

    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = channel();
        let job: Job = Box::new(move || tell.send(job()).expect("the caller waits"));
        self.jobs
            .as_ref()
            .expect("the guest runs")
            .send(job)
            .expect("the guest runs");
        told.recv().expect("the job ends")
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("a guest's thread panicked");
        }
    }
}

pub fn plug(guest: &Guest, device: &str, mac: &str, number: u8) {
    run(&format!(
        "ip link add {device} type veth peer name eth0 netns {}",
        guest.id
    ));
    run(&format!("ip link set {device} master br0"));
    let mac = mac.to_owned();
    guest.run(move || {
        run(&format!("ip link set eth0 address {mac}"));
        run("ip link set eth0 up");
        run(&format!("ip addr add 10.0.0.{number}/24 dev eth0"));
        run(&format!("ip addr add fd00::{number}/64 dev eth0 nodad"));
    });
}

/// Whether a line sent to a listener at `to` comes back.
pub fn talk(from: &Guest, server: &Guest, to: &str) -> bool {
    let address: SocketAddr = to.parse().expect("a valid address");
    let listener = server.run(move || TcpListener::bind(address).expect("binds"));
    let echo = std::thread::spawn(move || {
        listener.set_nonblocking(true).expect("sets");
        for _ in 0..30 {
            if let Ok((mut stream, _)) = listener.accept() {
                stream.set_nonblocking(false).expect("sets");
                let mut line = [0; 5];
                return stream
                    .read_exact(&mut line)
                    .and_then(|()| stream.write_all(&line))
                    .is_ok();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    });
    let heard = from.run(move || {
        let Ok(mut stream) = TcpStream::connect_timeout(&address, WAIT) else {
            return false;
        };
        stream.set_read_timeout(Some(WAIT)).expect("sets");
        let mut line = [0; 5];
        stream.write_all(b"hello").is_ok() && stream.read_exact(&mut line).is_ok()
    });
    echo.join().expect("the server ends") && heard
}
