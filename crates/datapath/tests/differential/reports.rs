//! What both report: the ring of the loaded programs, and the model's events, in the same order.

use lictor_datapath::Datapath;
use lictor_model::Event;
use lictor_types::{Segment, VnicId};
use std::time::Duration;

/// An event and the vnic that it is of.
pub(crate) type Report = (VnicId, Event);

/// In which no rig has a vnic.
const NOWHERE: Segment = Segment(0);

/// Takes what waits in the ring.
pub(crate) fn drain(datapath: &mut Datapath) -> Vec<Report> {
    let mut found = Vec::new();
    let sink = |event: lictor_datapath::Event| {
        let report = Event {
            at: Duration::from_nanos(event.time_ns),
            direction: event.direction,
            verdict: event.verdict,
            reason: event.reason,
            rule: event.rule,
            generation: event.generation,
            would: event.would,
            key: (event.key.segment != NOWHERE).then_some(event.key),
            bytes: event.length as usize,
        };
        found.push((event.vnic, report));
    };
    datapath.poll_events(Duration::ZERO, sink).expect("polls");
    found
}

/// Where the two lists part.
pub(crate) fn first_difference(kernel: &[Report], model: &[Report]) -> Option<String> {
    let same = kernel.iter().zip(model).take_while(|(a, b)| a == b).count();
    let parts = kernel.len() != model.len() || same < kernel.len();
    parts.then(|| {
        let (kernel, model) = (kernel.get(same), model.get(same));
        format!("events, after {same} equal ones\nkernel {kernel:?}\nmodel  {model:?}")
    })
}
