//! The sources of one destination, and how a row is joined of the behaviours of a service's ports.

use crate::Bits;

/// How the ports of a service are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Join {
    /// Sources that are allowed on any of its ports.
    Any,
    /// Sources that are allowed on each of its ports.
    Each,
}

/// The sources of one destination that rules allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    /// At both ends on the same port.
    pub(crate) both: Bits,
    /// At the source, if rules speak at one end only.
    egress: Option<Bits>,
    /// At the destination, likewise.
    ingress: Option<Bits>,
}

impl Row {
    pub(crate) fn egress(&self) -> &Bits {
        self.egress.as_ref().unwrap_or(&self.both)
    }

    pub(crate) fn ingress(&self) -> &Bits {
        self.ingress.as_ref().unwrap_or(&self.both)
    }

    /// Writes one source.
    pub(crate) fn set(&mut self, node: usize, column: (bool, bool, bool)) {
        let (both, egress, ingress) = column;
        if self.egress.is_none() && (egress != both || ingress != both) {
            self.egress = Some(self.both.clone());
            self.ingress = Some(self.both.clone());
        }
        self.both.set(node, both);
        for (bits, inside) in [(&mut self.egress, egress), (&mut self.ingress, ingress)] {
            if let Some(bits) = bits {
                bits.set(node, inside);
            }
        }
    }

    /// Bytes that it occupies.
    pub(crate) fn bytes(&self) -> usize {
        let apart = self.egress.iter().chain(&self.ingress).map(Bits::bytes);
        self.both.bytes() + apart.sum::<usize>()
    }
}

/// A row in the making.
pub(crate) struct Joined {
    pub(crate) join: Join,
    both: Option<Bits>,
    /// At the source and at the destination, once a rule has spoken at one end only.
    apart: Option<(Bits, Bits)>,
    words: usize,
}

impl Joined {
    pub(crate) fn new(join: Join, words: usize) -> Self {
        Self {
            join,
            both: None,
            apart: None,
            words,
        }
    }

    pub(crate) fn add(&mut self, egress: Bits, ingress: Option<Bits>) {
        let Some(mut both) = self.both.take() else {
            let mut both = egress.clone();
            if let Some(ingress) = ingress {
                both.and(&ingress);
                self.apart = Some((egress, ingress));
            }
            self.both = Some(both);
            return;
        };
        if ingress.is_some() && self.apart.is_none() {
            self.apart = Some((both.clone(), both.clone()));
        }
        match (&mut self.apart, ingress) {
            (Some((out, toward)), ingress) => {
                let ingress = ingress.as_ref().unwrap_or(&egress);
                match self.join {
                    Join::Any => both.or_and(&egress, ingress),
                    Join::Each => {
                        both.and(&egress);
                        both.and(ingress);
                    }
                }
                join(out, self.join, &egress);
                join(toward, self.join, ingress);
            }
            (None, _) => join(&mut both, self.join, &egress),
        }
        self.both = Some(both);
    }

    /// Of a service without ports nothing is allowed.
    pub(crate) fn row(self) -> Row {
        let (egress, ingress) = self.apart.unzip();
        Row {
            both: self.both.unwrap_or_else(|| Bits::empty(self.words)),
            egress,
            ingress,
        }
    }
}

fn join(sum: &mut Bits, join: Join, one: &Bits) {
    match join {
        Join::Any => sum.or(one),
        Join::Each => sum.and(one),
    }
}
