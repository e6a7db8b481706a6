//! Outside addresses in classes: two addresses that are in the same sets are one end.

use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses that no selector tells apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OutsideClass {
    /// The sets that they are in.
    pub(crate) sets: BTreeSet<String>,
    /// One of them that no guest has.
    pub(crate) example: IpAddr,
}

/// The classes of all addresses that no guest has, over these sets.
pub(crate) fn classes(
    sets: &BTreeMap<&str, BTreeSet<IpNet>>,
    guests: &BTreeSet<IpAddr>,
) -> Vec<OutsideClass> {
    let mut found: BTreeMap<BTreeSet<String>, IpAddr> = BTreeMap::new();
    for family in [Family::V4, Family::V6] {
        for (first, last, names) in runs(sets, family) {
            if found.contains_key(&names) {
                continue;
            }
            // Guests are finite: past all of them in the run lies an address that no guest has.
            let free = (first..=last).find(|bits| !guests.contains(&family.address(*bits)));
            if let Some(bits) = free {
                found.insert(names, family.address(bits));
            }
        }
    }
    let class = |(sets, example)| OutsideClass { sets, example };
    found.into_iter().map(class).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    const fn last(self) -> u128 {
        match self {
            Self::V4 => u32::MAX as u128,
            Self::V6 => u128::MAX,
        }
    }

    const fn is_of(self, address: IpAddr) -> bool {
        address.is_ipv4() == matches!(self, Self::V4)
    }

    fn address(self, bits: u128) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::from(u32::try_from(bits).unwrap_or(u32::MAX)).into(),
            Self::V6 => Ipv6Addr::from(bits).into(),
        }
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// Runs of addresses with the sets that they are in, in order. Prefixes nest or are disjoint, so a
/// stack holds those that are open.
fn runs(
    sets: &BTreeMap<&str, BTreeSet<IpNet>>,
    family: Family,
) -> Vec<(u128, u128, BTreeSet<String>)> {
    let mut opens: Vec<(u128, u128, &str)> = Vec::new();
    for (name, prefixes) in sets {
        let own = prefixes.iter().filter(|prefix| family.is_of(prefix.addr()));
        opens.extend(own.map(|prefix| (bits(prefix.network()), bits(prefix.broadcast()), *name)));
    }
    // Of those that begin together the widest comes first.
    opens.sort_by_key(|(first, last, name)| (*first, u128::MAX - last, *name));
    let mut starts: BTreeSet<u128> = BTreeSet::from([0]);
    for (first, last, _) in &opens {
        starts.insert(*first);
        starts.extend(last.checked_add(1).filter(|next| *next <= family.last()));
    }
    let starts: Vec<u128> = starts.into_iter().collect();
    let mut stack: Vec<(u128, &str)> = Vec::new();
    let mut opens = opens.into_iter().peekable();
    let mut runs = Vec::with_capacity(starts.len());
    for (index, start) in starts.iter().enumerate() {
        while stack.last().is_some_and(|(last, _)| last < start) {
            stack.pop();
        }
        while let Some((_, last, name)) = opens.next_if(|(first, ..)| first == start) {
            stack.push((last, name));
        }
        let names = stack.iter().map(|(_, name)| (*name).to_owned()).collect();
        let last = starts.get(index + 1).map_or(family.last(), |next| next - 1);
        runs.push((*start, last, names));
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sets: &[(&'static str, &[&str])], guests: &[&str], expected: &[(&str, &str)]) {
        let prefixes = |texts: &[&str]| {
            let texts = texts.iter();
            texts.map(|text| text.parse().expect("a prefix")).collect()
        };
        let sets = sets.iter().map(|(name, texts)| (*name, prefixes(texts)));
        let guests = guests.iter().map(|text| text.parse().expect("an address"));
        let found = classes(&sets.collect(), &guests.collect());
        let found: Vec<(String, String)> = found
            .iter()
            .map(|class| {
                let names: Vec<&str> = class.sets.iter().map(String::as_str).collect();
                (names.join(" "), class.example.to_string())
            })
            .collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|(one, two)| ((*one).to_owned(), (*two).to_owned()))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn addresses_in_the_same_sets_are_one_class() {
        check(&[], &[], &[("", "0.0.0.0")]);
        let nested: [(_, &[&str]); 3] = [
            ("wide", &["10.0.0.0/8", "192.0.2.1/32"]),
            ("narrow", &["10.1.0.0/16"]),
            ("v6", &["2001:db8::/32"]),
        ];
        check(
            &nested,
            &[],
            &[
                ("", "0.0.0.0"),
                ("narrow wide", "10.1.0.0"),
                ("v6", "2001:db8::"),
                ("wide", "10.0.0.0"),
            ],
        );
    }

    #[test]
    fn addresses_of_guests_are_nobodys_else() {
        let one: [(_, &[&str]); 1] = [("one", &["10.0.0.0/31"])];
        check(
            &one,
            &["0.0.0.0", "10.0.0.0"],
            &[("", "0.0.0.1"), ("one", "10.0.0.1")],
        );
        check(&one, &["10.0.0.0", "10.0.0.1"], &[("", "0.0.0.0")]);
    }

    #[test]
    fn the_ends_of_both_families_are_classes_too() {
        let all: [(_, &[&str]); 2] = [
            ("all4", &["0.0.0.0/0"]),
            ("last", &["255.255.255.255/32", "::/0"]),
        ];
        check(
            &all,
            &[],
            &[
                ("all4", "0.0.0.0"),
                ("all4 last", "255.255.255.255"),
                ("last", "::"),
            ],
        );
    }
}
