//! The programs that make packets in the kernel, and what they are told.

use anyhow::{Context, Result, bail};
use libbpf_rs::{MapCore as _, MapFlags, Object, Program, ProgramInput, ProgramMut};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::time::Duration;

use crate::clock;

const OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/injector.bpf.o"));
/// `BPF_F_TEST_XDP_LIVE_FRAMES` (Linux 5.18): what the program passes goes up the stack.
const LIVE_FRAMES: u32 = 1 << 1;
/// What `replay` returns without a target.
const NO_TARGET: u32 = 99;

/// How the conversation of each copy is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choose {
    /// Any of this many, each as likely.
    Random(u32),
    /// One after the other from this number on.
    Next(u32),
}

/// Which end of the frame is the far one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FarEnd {
    /// The receiver.
    Destination,
    /// The sender.
    Source,
}

/// What becomes of the template's copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Which conversation.
    pub choose: Choose,
    /// Over how many far prefixes the conversations go. At least one.
    pub prefixes: u32,
    /// The first far address.
    pub far_first: Ipv4Addr,
    /// Where the far address goes.
    pub far: FarEnd,
}

impl Plan {
    fn bytes(&self) -> Vec<u8> {
        const SEED: u64 = 88_172_645_463_325_252;
        let (choose, next, flows) = match self.choose {
            Choose::Random(flows) => (0_u32, 0, flows),
            Choose::Next(first) => (1, first, 0),
        };
        let far: u32 = match self.far {
            FarEnd::Destination => 0,
            FarEnd::Source => 1,
        };
        let mut bytes = SEED.to_ne_bytes().to_vec();
        let first = u32::from(self.far_first);
        for word in [next, choose, flows, self.prefixes.max(1), first, far] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes
    }
}

/// What a run has cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// Processor time of one packet, in nanoseconds.
    pub ns: f64,
    /// Of that, the part that the kernel deferred to its own thread, from 0 to 1.
    pub deferred: f64,
}

/// The loaded programs.
#[derive(Debug)]
pub struct Injector {
    object: Object,
}

impl Injector {
    /// Loads them.
    ///
    /// # Errors
    /// The caller is not root, or the kernel is older than 5.18.
    pub fn load() -> Result<Self> {
        libbpf_rs::set_print(None);
        let object = libbpf_rs::ObjectBuilder::default()
            .open_memory(OBJECT)?
            .load()
            .context("the kernel refused the bench's programs; it needs root and Linux 5.18")?;
        Ok(Self { object })
    }

    fn program(&self, name: &str) -> Result<Program<'_>> {
        let mut programs = self.object.progs();
        programs
            .find(|program| program.name() == name)
            .with_context(|| format!("the injector has no program {name}"))
    }

    /// Only a program that may be changed may be run.
    fn runnable(&mut self, name: &str) -> Result<ProgramMut<'_>> {
        let mut programs = self.object.progs_mut();
        programs
            .find(|program| program.name() == name)
            .with_context(|| format!("the injector has no program {name}"))
    }

    fn write(&self, map: &str, value: &[u8]) -> Result<()> {
        let mut maps = self.object.maps();
        let map = maps
            .find(|other| other.name() == map)
            .with_context(|| format!("the injector has no map {map}"))?;
        map.update(&0_u32.to_ne_bytes(), value, MapFlags::ANY)?;
        Ok(())
    }

    /// Attaches what makes a veth take injected frames. Acts in the calling thread's namespace; the
    /// program goes with the device.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn open_port(&self, device: &str) -> Result<()> {
        let program = self.program("pass")?;
        let index = interface(device)?;
        libbpf_rs::Xdp::new(program.as_fd())
            .attach(index, libbpf_rs::XdpFlags::DRV_MODE)
            .with_context(|| format!("cannot attach to {device}"))
    }

    /// Puts the counting end on a device, as [`Injector::open_port`] does.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn sink(&self, device: &str) -> Result<()> {
        let program = self.program("sink")?;
        let mut hook = libbpf_rs::TcHookBuilder::new(program.as_fd())
            .ifindex(interface(device)?)
            .replace(true)
            .handle(1)
            .priority(1)
            .hook(libbpf_rs::TC_INGRESS);
        hook.create()?;
        hook.attach()
            .map(drop)
            .with_context(|| format!("cannot attach to {device}"))
    }

    /// How many packets have arrived at the counting end.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn arrived(&self) -> Result<u64> {
        let mut maps = self.object.maps();
        let map = maps
            .find(|map| map.name() == "sunk")
            .context("the injector has no map sunk")?;
        let values = map.lookup_percpu(&0_u32.to_ne_bytes(), MapFlags::ANY)?;
        let number = |bytes: &Vec<u8>| bytes.first_chunk().copied().map_or(0, u64::from_ne_bytes);
        Ok(values.iter().flatten().map(number).sum())
    }

    /// Injects `count` copies into a device as if it had received them, and says what one cost.
    ///
    /// # Errors
    /// The device is not in the calling thread's namespace, or has no [`Injector::open_port`].
    pub fn inject(&mut self, device: &str, copies: (&Plan, &[u8], u32)) -> Result<Cost> {
        let (plan, frame, count) = copies;
        self.write("plan", &plan.bytes())?;
        let program = self.runnable("generate")?;
        let mut context = Vec::new();
        let index = u32::try_from(interface(device)?)?;
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex
        for word in [0, u32::try_from(frame.len())?, 0, index, 0, 0] {
            context.extend(word.to_ne_bytes());
        }
        run(count, || {
            let input = ProgramInput {
                context_in: Some(&mut context),
                data_in: Some(frame),
                flags: LIVE_FRAMES,
                repeat: count,
                ..ProgramInput::default()
            };
            program.test_run(input).map(drop).map_err(Into::into)
        })
    }

    /// Runs another program on `count` copies, without any device.
    ///
    /// # Errors
    /// The program is not of the kind of tc's, or something else refuses.
    pub fn replay(
        &mut self,
        target: Option<BorrowedFd<'_>>,
        copies: (&Plan, &[u8], u32),
    ) -> Result<Cost> {
        let (plan, frame, count) = copies;
        self.write("plan", &plan.bytes())?;
        let fd = match target {
            Some(target) => target.as_raw_fd(),
            None => self.program("nothing")?.as_fd().as_raw_fd(),
        };
        self.write("target", &fd.to_ne_bytes())
            .context("the program cannot be called by the injector's")?;
        let program = self.runnable("replay")?;
        run(count, || {
            let input = ProgramInput {
                data_in: Some(frame),
                repeat: count,
                ..ProgramInput::default()
            };
            if program.test_run(input)?.return_value == NO_TARGET {
                bail!("the injector did not reach the program");
            }
            Ok(())
        })
    }
}

/// The processor time of the calling thread, and of what it left to the kernel's own.
fn run(count: u32, work: impl FnOnce() -> Result<()>) -> Result<Cost> {
    let cpu = nix::sched::sched_getcpu().context("cannot tell the processor")?;
    let deferred = clock::deferred(cpu)?;
    let before = clock::thread()?;
    work()?;
    let own = clock::thread()?.saturating_sub(before);
    let deferred = clock::deferred(cpu)?.saturating_sub(deferred);
    let all = own + deferred;
    let share = |part: Duration| part.as_secs_f64() / all.as_secs_f64().max(f64::MIN_POSITIVE);
    Ok(Cost {
        ns: all.as_secs_f64() * 1e9 / f64::from(count.max(1)),
        deferred: share(deferred),
    })
}

fn interface(device: &str) -> Result<i32> {
    let index = nix::net::if_::if_nametoindex(device)
        .with_context(|| format!("there is no device {device} in this namespace"))?;
    Ok(i32::try_from(index)?)
}
