//! Guests with real stacks: threads in network namespaces of their own, on a bridge.

use super::run;
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Of ten milliseconds each.
const WAITS: usize = 1_000;

type Job = Box<dyn FnOnce() + Send>;

/// A thread that lives in a network namespace of its own and runs what it is given.
pub struct Guest {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    id: i32,
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

/// Brings a guest's interface up from the host's side. A link carries nothing until the kernel has
/// noticed that both its ends are up, which takes a second on a busy machine; until then frames
/// are dropped, and nobody is told.
pub fn link_up(guest: &Guest, device: &str) {
    run(&format!("ip link set {device} up"));
    wait_up(device);
    guest.run(|| wait_up("eth0"));
}

fn wait_up(device: &str) {
    for _ in 0..WAITS {
        let shown = Command::new("ip")
            .args(["-o", "link", "show", device])
            .output()
            .expect("ip can be started");
        if String::from_utf8_lossy(&shown.stdout).contains("state UP") {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{device} is not up");
}

/// A bridge that forwards at once.
pub fn bridge() {
    run("ip link add br0 type bridge forward_delay 0 mcast_snooping 0");
    run("ip link set br0 up");
}
