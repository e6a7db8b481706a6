//! Sets of nodes as words of 64 bits. All sets of one universe have the same number of words, and
//! each knows between which words its bits lie: most selectors match a few neighbours only.

/// A set of nodes.
#[derive(Debug, Clone, Default)]
pub struct Bits {
    words: Vec<u64>,
    /// Words outside of `first..end` are zero.
    first: usize,
    end: usize,
}

/// Equal members are equal sets, however wide the span is that each of them remembers.
impl PartialEq for Bits {
    fn eq(&self, other: &Self) -> bool {
        self.words == other.words
    }
}

impl Eq for Bits {}

impl Bits {
    /// The empty set, with room for this many words.
    #[must_use]
    pub fn empty(words: usize) -> Self {
        Self {
            words: vec![0; words],
            first: 0,
            end: 0,
        }
    }

    /// The set of the nodes below `count`.
    #[must_use]
    pub fn below(count: usize, words: usize) -> Self {
        let mut bits = Self::empty(words);
        (0..count).for_each(|node| bits.insert(node));
        bits
    }

    /// Words of room.
    #[must_use]
    pub fn room(&self) -> usize {
        self.words.len()
    }

    /// Its words.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Adds words of room.
    pub fn grow(&mut self, words: usize) {
        self.words.resize(words, 0);
    }

    /// Bytes that it occupies.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.words.capacity() * 8 + size_of::<Self>()
    }

    /// Empties it.
    pub fn clear(&mut self) {
        self.words[self.first..self.end].fill(0);
        (self.first, self.end) = (0, 0);
    }

    /// Makes it equal to another one.
    pub fn copy(&mut self, other: &Self) {
        self.clear();
        self.or(other);
    }

    fn widen(&mut self, first: usize, end: usize) {
        if first >= end {
            return;
        }
        if self.first == self.end {
            (self.first, self.end) = (first, end);
        } else {
            self.first = self.first.min(first);
            self.end = self.end.max(end);
        }
    }

    /// Adds a node.
    pub fn insert(&mut self, node: usize) {
        self.words[node / 64] |= 1 << (node % 64);
        self.widen(node / 64, node / 64 + 1);
    }

    /// Takes a node out.
    pub fn remove(&mut self, node: usize) {
        if let Some(word) = self.words.get_mut(node / 64) {
            *word &= !(1 << (node % 64));
        }
    }

    /// Adds a node or takes it out.
    pub fn set(&mut self, node: usize, inside: bool) {
        match inside {
            true => self.insert(node),
            false => self.remove(node),
        }
    }

    /// Whether a node is in it.
    #[must_use]
    pub fn has(&self, node: usize) -> bool {
        let word = self.words.get(node / 64);
        word.is_some_and(|word| word >> (node % 64) & 1 == 1)
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words[self.first..self.end]
            .iter()
            .all(|word| *word == 0)
    }

    /// How many nodes are in it.
    #[must_use]
    pub fn count(&self) -> usize {
        let words = self.words[self.first..self.end].iter();
        words.map(|word| word.count_ones() as usize).sum()
    }

    /// The first node.
    #[must_use]
    pub fn first(&self) -> Option<usize> {
        self.iter().next()
    }

    /// The nodes in order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        let words = self.words[self.first..self.end].iter().enumerate();
        words.flat_map(move |(index, word)| {
            let base = (self.first + index) * 64;
            let mut rest = *word;
            std::iter::from_fn(move || {
                if rest == 0 {
                    return None;
                }
                let bit = rest.trailing_zeros() as usize;
                rest &= rest - 1;
                Some(base + bit)
            })
        })
    }

    /// Adds what the other one has.
    pub fn or(&mut self, other: &Self) {
        let (first, end) = (other.first, other.end);
        let theirs = &other.words[first..end];
        for (own, word) in self.words[first..end].iter_mut().zip(theirs) {
            *own |= word;
        }
        self.widen(first, end);
    }

    /// Adds what the first one has and the second one has too.
    pub fn or_and(&mut self, one: &Self, two: &Self) {
        let (first, end) = meet(one, two);
        let theirs = one.words[first..end].iter().zip(&two.words[first..end]);
        for (own, (one, two)) in self.words[first..end].iter_mut().zip(theirs) {
            *own |= one & two;
        }
        self.widen(first, end);
    }

    /// Adds what the first one has and the second one has not.
    pub fn or_without(&mut self, one: &Self, two: &Self) {
        let (first, end) = (one.first, one.end);
        let theirs = one.words[first..end].iter().zip(&two.words[first..end]);
        for (own, (one, two)) in self.words[first..end].iter_mut().zip(theirs) {
            *own |= one & !two;
        }
        self.widen(first, end);
    }

    /// Keeps what the other one has too.
    pub fn and(&mut self, other: &Self) {
        let (first, end) = meet(self, other);
        if first >= end {
            self.clear();
            return;
        }
        self.words[self.first..first].fill(0);
        self.words[end..self.end].fill(0);
        (self.first, self.end) = (first, end);
        let theirs = &other.words[first..end];
        for (own, word) in self.words[first..end].iter_mut().zip(theirs) {
            *own &= word;
        }
    }

    /// Takes out what the other one has.
    pub fn without(&mut self, other: &Self) {
        let (first, end) = meet(self, other);
        if first >= end {
            return;
        }
        let theirs = &other.words[first..end];
        for (own, word) in self.words[first..end].iter_mut().zip(theirs) {
            *own &= !word;
        }
    }

    /// Whether both have a node in common.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        self.common(other).is_some()
    }

    /// The first node that both have.
    #[must_use]
    pub fn common(&self, other: &Self) -> Option<usize> {
        let (first, end) = meet(self, other);
        (first..end).find_map(|index| {
            let both = self.words[index] & other.words[index];
            (both != 0).then(|| index * 64 + both.trailing_zeros() as usize)
        })
    }

    /// The first node that this one has and the other one has not.
    #[must_use]
    pub fn beyond(&self, other: &Self) -> Option<usize> {
        (self.first..self.end).find_map(|index| {
            let rest = self.words[index] & !other.words[index];
            (rest != 0).then(|| index * 64 + rest.trailing_zeros() as usize)
        })
    }
}

/// The words in which both may have bits; an empty range has `first >= end`.
fn meet(one: &Bits, two: &Bits) -> (usize, usize) {
    let first = one.first.max(two.first);
    (first, one.end.min(two.end).max(first))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const WORDS: usize = 4;

    fn of(nodes: &[usize]) -> Bits {
        let mut bits = Bits::empty(WORDS);
        nodes.iter().for_each(|node| bits.insert(*node));
        bits
    }

    const SETS: [&[usize]; 6] = [
        &[],
        &[0],
        &[63, 64],
        &[0, 70, 255],
        &[130, 131, 132],
        &[1, 63, 64, 130, 255],
    ];

    /// Every pair of sets, against the sets of the standard library.
    #[test]
    fn operations_are_those_of_sets() {
        for one in SETS {
            for two in SETS {
                let (a, b) = (of(one), of(two));
                let set = |nodes: &[usize]| nodes.iter().copied().collect::<BTreeSet<_>>();
                let (x, y) = (set(one), set(two));
                let check = |found: &Bits, expected: BTreeSet<usize>| {
                    assert_eq!(found.iter().collect::<BTreeSet<_>>(), expected);
                    assert_eq!(found.count(), expected.len());
                    assert_eq!(found.is_empty(), expected.is_empty());
                    assert_eq!(*found, of(&expected.into_iter().collect::<Vec<_>>()));
                };
                let with = |change: &dyn Fn(&mut Bits)| {
                    let mut bits = a.clone();
                    change(&mut bits);
                    bits
                };
                check(&with(&|bits| bits.or(&b)), &x | &y);
                check(&with(&|bits| bits.and(&b)), &x & &y);
                check(&with(&|bits| bits.without(&b)), &x - &y);
                check(&with(&|bits| bits.copy(&b)), y.clone());
                check(&with(&|bits| bits.or_and(&b, &of(&[64, 255]))), {
                    let both = &y & &set(&[64, 255]);
                    &x | &both
                });
                check(&with(&|bits| bits.or_without(&b, &of(&[64, 255]))), {
                    let rest = &y - &set(&[64, 255]);
                    &x | &rest
                });
                assert_eq!(a.common(&b), (&x & &y).first().copied());
                assert_eq!(a.beyond(&b), (&x - &y).first().copied());
                assert_eq!(a.meets(&b), !x.is_disjoint(&y));
            }
        }
    }

    #[test]
    fn a_set_grows_and_forgets() {
        let mut bits = of(&[3, 200]);
        bits.grow(WORDS + 1);
        bits.insert(64 * WORDS);
        bits.remove(200);
        bits.set(4, true);
        bits.set(3, false);
        assert_eq!(bits.iter().collect::<Vec<_>>(), [4, 64 * WORDS]);
        bits.clear();
        assert!(bits.is_empty() && bits.first().is_none());
        assert_eq!(Bits::below(65, WORDS).iter().collect::<Vec<_>>().len(), 65);
    }
}
