//! When each bucket was heard of, side by side: whoever copies a table from which little has
//! changed reads four bytes of a bucket instead of a line that lies a kilobyte from the next one.

use super::{Slots, buckets_for_heard, create, ticks};
use crate::abi::{self, Bucket, TableInfo};
use crate::sys::{self, Mapped};
use std::io;
use std::mem::offset_of;
use std::os::fd::AsFd as _;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

/// A minute: no round that goes on began as long ago.
const LONG_TICKS: u32 = 1 << 16;
const WITHIN: usize = (1 << abi::HEARD_SHIFT) - 1;

impl Slots {
    /// Whether programs have written down what they hear since [`Self::listen`].
    pub(crate) fn listens(&self) -> bool {
        self.heard.is_some() && self.copied().load(SeqCst) != 0
    }

    /// Has programs write down which buckets they hear of; those that run already may not. Tables
    /// that an older version made have no place for it.
    pub(crate) fn listen(&self, now: u64) {
        // What an agent that was killed had begun goes on.
        let Some(heard) = self.heard.as_ref().filter(|_| !self.listens()) else {
            return;
        };
        // The clock comes around in seven weeks, and what is older than half of that looks new.
        let before = ticks(now).wrapping_sub(LONG_TICKS);
        for bucket in 0..heard.len() << abi::HEARD_SHIFT {
            heard_at(heard, bucket).store(before, Relaxed);
        }
        self.copied().store(1, SeqCst);
    }

    /// Nobody copies any more.
    pub(crate) fn listen_no_more(&self) {
        self.copied().store(0, SeqCst);
    }

    fn copied(&self) -> &AtomicU32 {
        self.info.half(0, offset_of!(TableInfo, copied))
    }

    /// What can be said of the buckets of a table, if all of it was written down. While one table
    /// takes another's place it is not: both have buckets of one number.
    pub(super) fn heard(&self, table: u32) -> Option<&Mapped<Bucket>> {
        let draining = self.current() & abi::TABLE_DRAINING != 0;
        let heard = self.heard.as_ref()?;
        (table != abi::TABLE_HALF_OPEN && !draining && self.listens()).then_some(heard)
    }

    /// Something of a bucket was put in or taken out.
    pub(super) fn hear(&self, (table, bucket): (u32, usize), now: u32) {
        let heard = self.heard.as_ref().filter(|_| self.listens());
        let heard = heard.filter(|heard| bucket >> abi::HEARD_SHIFT < heard.len());
        if let Some(heard) = heard.filter(|_| table != abi::TABLE_HALF_OPEN) {
            heard_at(heard, bucket).store(now, SeqCst);
        }
    }

    /// Makes room for so many buckets.
    pub(super) fn make_heard(&mut self, buckets: u32) -> io::Result<()> {
        if self.heard.is_none() {
            return Ok(());
        }
        let inner = create(buckets_for_heard(buckets))?;
        let mapped = Mapped::new(inner.as_fd())?;
        sys::set_inner(&self.outer, abi::TABLE_HEARD, inner.as_fd())?;
        self.heard = Some(mapped);
        Ok(())
    }
}

pub(super) fn heard_at(heard: &Mapped<Bucket>, bucket: usize) -> &AtomicU32 {
    let offset = (bucket & WITHIN) * size_of::<u32>();
    heard.half(bucket >> abi::HEARD_SHIFT, offset)
}
