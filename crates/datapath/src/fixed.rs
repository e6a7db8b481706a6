//! Tables that never change once they are built: rows in buckets of two cache lines, as
//! `bpf/policy.h` looks for them. A row whose bucket is full lies in the next one, and a search
//! ends at a bucket that nobody passed.

use crate::abi::{
    self, ADDRESS_BUCKET_ENTRIES, AddressBucket, AddressEntry, AddressKey, DECISION_BUCKET_ENTRIES,
    Decision, DecisionBucket, FIXED_KEYS, FIXED_STEPS, Plain,
};
use rand::RngCore as _;

/// What a release's hash is made with. Nobody outside of the host knows it, so nobody can choose
/// addresses that all meet in one bucket.
pub(crate) type Keys = [u64; FIXED_KEYS + 1];

/// How often other keys are tried before the table is made larger.
const TRIES: u32 = 4;
/// How often a table is doubled; rows that still do not fit have not met by chance.
const DOUBLINGS: u32 = 4;

pub(crate) fn random_keys() -> Keys {
    let mut random = rand::rngs::OsRng;
    std::array::from_fn(|_| random.next_u64())
}

/// A row of a table.
pub(crate) trait Row: Plain + PartialEq {
    /// What it is found by, as the words that are hashed.
    fn words(&self) -> [u32; FIXED_KEYS];
    /// Whether it answers the same question.
    fn is_of(&self, words: &[u32; FIXED_KEYS]) -> bool {
        self.words() == *words
    }
    /// Whether there is a row at all.
    fn is_some(&self) -> bool;
}

/// Some rows, and whether one that belongs here lies further on.
pub(crate) trait Bucket: Plain {
    type Row: Row;
    const ROWS: usize;
    fn rows(&self) -> &[Self::Row];
    fn rows_mut(&mut self) -> &mut [Self::Row];
    fn passed(&self) -> bool;
    fn pass(&mut self);
}

impl Row for AddressEntry {
    fn words(&self) -> [u32; FIXED_KEYS] {
        let AddressKey {
            prefix_bits,
            place,
            address,
        } = self.key;
        let word = |at: usize| u32::from_ne_bytes(std::array::from_fn(|i| address[at + i]));
        [prefix_bits, place, word(0), word(4), word(8), word(12)]
    }
    fn is_some(&self) -> bool {
        self.key.place != 0
    }
}

impl Bucket for AddressBucket {
    type Row = AddressEntry;
    const ROWS: usize = ADDRESS_BUCKET_ENTRIES;
    fn rows(&self) -> &[AddressEntry] {
        &self.entries
    }
    fn rows_mut(&mut self) -> &mut [AddressEntry] {
        &mut self.entries
    }
    fn passed(&self) -> bool {
        self.passed != 0
    }
    fn pass(&mut self) {
        self.passed = 1;
    }
}

impl Row for Decision {
    fn words(&self) -> [u32; FIXED_KEYS] {
        [self.local, self.peer, self.what, 0, 0, 0]
    }
    fn is_some(&self) -> bool {
        self.what & abi::ATOM_MASK != 0
    }
}

impl Bucket for DecisionBucket {
    type Row = Decision;
    const ROWS: usize = DECISION_BUCKET_ENTRIES;
    fn rows(&self) -> &[Decision] {
        &self.entries
    }
    fn rows_mut(&mut self) -> &mut [Decision] {
        &mut self.entries
    }
    fn passed(&self) -> bool {
        self.entries[0].passed != 0
    }
    fn pass(&mut self) {
        self.entries[0].passed = 1;
    }
}

/// The bucket at which a search begins.
fn home(keys: &Keys, words: &[u32; FIXED_KEYS], homes: u32) -> usize {
    let products = words.iter().zip(keys);
    let sum = products.fold(keys[FIXED_KEYS], |sum, (word, key)| {
        sum.wrapping_add(key.wrapping_mul(u64::from(*word)))
    });
    let hash = abi::hash_mixed(sum);
    (((hash >> 32) * u64::from(homes)) >> 32) as usize
}

/// A table: the buckets at which searches begin, and behind them those that only overflow.
pub(crate) struct Fixed<B> {
    pub(crate) buckets: Vec<B>,
    /// How many a search may begin at.
    pub(crate) homes: u32,
}

impl<B: Bucket> Fixed<B> {
    /// A table as it was read back, if it is sound.
    pub(crate) fn read(buckets: Vec<B>, homes: u32, keys: &Keys) -> Option<Self> {
        let whole = buckets.len() == len_of(homes);
        let table = Self { buckets, homes };
        (whole && table.is_sound(keys)).then_some(table)
    }

    /// Every row, in no order that means anything.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &B::Row> {
        let rows = self.buckets.iter().flat_map(Bucket::rows);
        rows.filter(|row| row.is_some())
    }

    /// The first row that a search comes by, as the kernel program sees it.
    fn find(&self, keys: &Keys, words: &[u32; FIXED_KEYS]) -> Option<&B::Row> {
        let home = home(keys, words, self.homes);
        for bucket in self.buckets.get(home..home + FIXED_STEPS)? {
            if let Some(row) = bucket.rows().iter().find(|row| row.is_of(words)) {
                return Some(row);
            }
            if !bucket.passed() {
                return None;
            }
        }
        None
    }

    /// Whether each row is what a search for it finds: one in a bucket where nobody looks, or
    /// behind another of its kind, is in the table and yet decides nothing.
    fn is_sound(&self, keys: &Keys) -> bool {
        self.rows().all(|row| {
            let found = self.find(keys, &row.words());
            found.is_some_and(|found| std::ptr::eq(found, row))
        })
    }

    /// With so many homes that it is half full, or doubled a few times.
    fn of(rows: &[B::Row], keys: &Keys, doublings: u32) -> Option<Self> {
        Self::place(rows, keys, homes_for::<B>(rows.len()) << doublings)
    }

    fn place(rows: &[B::Row], keys: &Keys, homes: u32) -> Option<Self> {
        let mut table = Self {
            buckets: vec![B::default(); len_of(homes)],
            homes,
        };
        for row in rows {
            table.put(row, keys)?;
        }
        Some(table)
    }

    fn put(&mut self, row: &B::Row, keys: &Keys) -> Option<()> {
        let home = home(keys, &row.words(), self.homes);
        for bucket in self.buckets.get_mut(home..home + FIXED_STEPS)? {
            if let Some(free) = bucket.rows_mut().iter_mut().find(|row| !row.is_some()) {
                *free = *row;
                return Some(());
            }
            bucket.pass();
        }
        None
    }
}

/// Its buckets, with those behind the homes.
pub(crate) fn len_of(homes: u32) -> usize {
    homes as usize + FIXED_STEPS - 1
}

/// Buckets for that many rows: half full, so that few searches go on.
fn homes_for<B: Bucket>(rows: usize) -> u32 {
    (rows * 2).div_ceil(B::ROWS).max(1) as u32
}

/// Arranges all tables with one set of keys: two of addresses, and the decisions. `None`: some rows
/// can't be told apart.
pub(crate) fn arrange(
    addresses: [&[AddressEntry]; 2],
    decisions: &[Decision],
) -> Option<(Keys, [Fixed<AddressBucket>; 2], Fixed<DecisionBucket>)> {
    let [first, second] = addresses;
    for doubling in 0..DOUBLINGS {
        for _ in 0..TRIES {
            let keys = random_keys();
            let arranged = [
                Fixed::of(first, &keys, doubling),
                Fixed::of(second, &keys, doubling),
            ];
            if let ([Some(first), Some(second)], Some(decisions)) =
                (arranged, Fixed::of(decisions, &keys, doubling))
            {
                return Some((keys, [first, second], decisions));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(local: u32, peer: u32) -> Decision {
        Decision {
            local,
            peer,
            what: 1,
            rule: local ^ peer,
            ..Decision::default()
        }
    }

    fn table(rows: &[Decision]) -> (Keys, Fixed<DecisionBucket>) {
        let (keys, _, table) = arrange([&[], &[]], rows).expect("room for all");
        (keys, table)
    }

    #[test]
    fn every_row_is_found_and_nothing_else() {
        for count in [0, 1, 4, 5, 1_000, 50_000] {
            let rows: Vec<_> = (0..count).map(|i| decision(i % 300, i)).collect();
            let (keys, table) = table(&rows);
            assert!(table.is_sound(&keys), "{count}");
            assert_eq!(table.rows().count(), rows.len(), "{count}");
            for row in &rows {
                let found = table.find(&keys, &row.words()).expect("each row is found");
                assert_eq!(
                    (found.words(), found.rule),
                    (row.words(), row.rule),
                    "{count}"
                );
            }
            for absent in (0..1_000).map(|i| decision(400 + i, i)) {
                assert_eq!(table.find(&keys, &absent.words()), None, "{count}");
            }
        }
    }

    #[test]
    fn a_full_bucket_sends_on_and_an_impossible_table_is_refused() {
        // With all keys zero every row begins at the same bucket.
        let keys = [0; FIXED_KEYS + 1];
        let fit = FIXED_STEPS * DECISION_BUCKET_ENTRIES;
        let rows: Vec<_> = (0..=fit as u32).map(|i| decision(i, i)).collect();
        let table = Fixed::<DecisionBucket>::place(&rows[..fit], &keys, 64).expect("room");
        assert!(table.is_sound(&keys));
        assert!(Fixed::<DecisionBucket>::place(&rows, &keys, 64).is_none());
    }

    #[test]
    fn a_table_in_which_a_row_is_out_of_reach_is_not_sound() {
        let rows: Vec<_> = (0..64).map(|i| decision(i, i)).collect();
        let (keys, mut table) = table(&rows);
        let home = home(&keys, &rows[0].words(), table.homes);
        let (before, rest) = table.buckets.split_at_mut(home);
        let (searched, behind) = rest.split_at_mut(FIXED_STEPS);
        let mut searched = searched.iter_mut().flat_map(Bucket::rows_mut);
        let row = searched.find(|row| row.is_of(&rows[0].words()));
        row.expect("where it is looked for").what = 0;
        let mut others = before.iter_mut().chain(behind).flat_map(Bucket::rows_mut);
        let free = others.find(|row| !row.is_some());
        *free.expect("room where nobody looks") = rows[0];
        assert_eq!(table.rows().count(), rows.len(), "it is still there");
        assert!(!table.is_sound(&keys), "but nobody finds it");
    }

    #[test]
    fn a_second_answer_to_one_question_is_not_sound() {
        let (keys, mut table) = table(&[decision(1, 2)]);
        let home = home(&keys, &decision(1, 2).words(), table.homes);
        let second = table.buckets[home]
            .entries
            .iter_mut()
            .find(|row| !row.is_some());
        *second.expect("room") = Decision {
            rule: 9,
            ..decision(1, 2)
        };
        assert!(!table.is_sound(&keys));
    }
}
