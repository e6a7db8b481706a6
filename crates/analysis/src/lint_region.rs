//! Which ends a selector can match, of all guests and addresses that there may ever be: sorted runs
//! of addresses, and cubes over label values. Exact over every label and prefix, without an estate.

use ipnet::{IpNet, IpSubnets, Ipv4Subnets, Ipv6Subnets};
use lictor_policy::{End, HOST_LABEL, Labels, Policy, Selector};
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A run of addresses, both ends included.
type Run = (u128, u128);

/// Cubes that one region may have: what needs more is not decided.
const CUBES_MAX: usize = 4_096;

/// Values of one label, as numbers: 0 is a guest without the label, and every value that no
/// selector names is in no list.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Values {
    /// These.
    In(Vec<u32>),
    /// All but these.
    Out(Vec<u32>),
}

impl Values {
    fn is_empty(&self) -> bool {
        matches!(self, Self::In(list) if list.is_empty())
    }

    fn and(&self, other: &Self) -> Self {
        let keep = |list: &[u32], inside: &dyn Fn(&u32) -> bool| {
            list.iter().copied().filter(|value| inside(value)).collect()
        };
        match (self, other) {
            (Self::In(one), other) => Self::In(keep(one, &|value| other.has(*value))),
            (one, Self::In(two)) => Self::In(keep(two, &|value| one.has(*value))),
            (Self::Out(one), Self::Out(two)) => {
                let mut all: Vec<u32> = one.iter().chain(two).copied().collect();
                all.sort_unstable();
                all.dedup();
                Self::Out(all)
            }
        }
    }

    fn not(&self) -> Self {
        match self {
            Self::In(list) => Self::Out(list.clone()),
            Self::Out(list) => Self::In(list.clone()),
        }
    }

    fn has(&self, value: u32) -> bool {
        match self {
            Self::In(list) => list.binary_search(&value).is_ok(),
            Self::Out(list) => list.binary_search(&value).is_err(),
        }
    }
}

/// Guests whose labels have these values; of other labels any. Sorted by label.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Cube(Vec<(u32, Values)>);

impl Cube {
    fn and(&self, other: &Self) -> Option<Self> {
        let mut joined = self.clone();
        for (label, values) in &other.0 {
            joined = joined.with(*label, values)?;
        }
        Some(joined)
    }

    fn with(mut self, label: u32, values: &Values) -> Option<Self> {
        match self.0.binary_search_by_key(&label, |(label, _)| *label) {
            Ok(place) => {
                let both = self.0[place].1.and(values);
                if both.is_empty() {
                    return None;
                }
                self.0[place].1 = both;
            }
            Err(_) if values.is_empty() => return None,
            Err(place) => self.0.insert(place, (label, values.clone())),
        }
        Some(self)
    }

    /// Disjoint cubes that are in this one and not in the other.
    fn without(&self, other: &Self, out: &mut Vec<Self>) {
        if self.and(other).is_none() {
            out.push(self.clone());
            return;
        }
        let mut rest = self.clone();
        for (label, values) in &other.0 {
            out.extend(rest.clone().with(*label, &values.not()));
            match rest.with(*label, values) {
                Some(inside) => rest = inside,
                None => return,
            }
        }
    }
}

/// A set of ends.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Region {
    v4: Vec<Run>,
    v6: Vec<Run>,
    guests: Vec<Cube>,
}

/// A region would have too many parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooMany;

impl Region {
    pub(crate) fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty() && self.guests.is_empty()
    }

    /// Only its addresses.
    pub(crate) fn outside(&self) -> Self {
        Self {
            guests: Vec::new(),
            ..self.clone()
        }
    }

    /// Both together, where they have nothing in common.
    pub(crate) fn plus(&self, other: &Self) -> Result<Self, TooMany> {
        self.or(other)
    }

    /// Only its guests.
    pub(crate) fn guests(&self) -> Self {
        Self {
            guests: self.guests.clone(),
            ..Self::default()
        }
    }

    /// The first and the last IPv4 address, if it is one run of these and nothing else.
    pub(crate) fn single(&self) -> Option<(u32, u32)> {
        let only = self.v6.is_empty() && self.guests.is_empty();
        match self.v4.as_slice() {
            [(first, last)] if only => {
                Some((u32::try_from(*first).ok()?, u32::try_from(*last).ok()?))
            }
            _ => None,
        }
    }

    pub(crate) fn and(&self, other: &Self) -> Result<Self, TooMany> {
        let pairs = self
            .guests
            .iter()
            .flat_map(|one| other.guests.iter().map(move |two| one.and(two)));
        let guests: Vec<Cube> = pairs.flatten().take(CUBES_MAX + 1).collect();
        if guests.len() > CUBES_MAX {
            return Err(TooMany);
        }
        Ok(Self {
            v4: both(&self.v4, &other.v4),
            v6: both(&self.v6, &other.v6),
            guests,
        })
    }

    pub(crate) fn meets(&self, other: &Self) -> bool {
        meet(&self.v4, &other.v4)
            || meet(&self.v6, &other.v6)
            || self
                .guests
                .iter()
                .any(|one| other.guests.iter().any(|two| one.and(two).is_some()))
    }

    pub(crate) fn without(&self, other: &Self) -> Result<Self, TooMany> {
        let mut guests = self.guests.clone();
        for cube in &other.guests {
            let mut left = Vec::new();
            for one in &guests {
                one.without(cube, &mut left);
                if left.len() > CUBES_MAX {
                    return Err(TooMany);
                }
            }
            guests = left;
        }
        Ok(Self {
            v4: less(&self.v4, &other.v4),
            v6: less(&self.v6, &other.v6),
            guests,
        })
    }

    fn or(&self, other: &Self) -> Result<Self, TooMany> {
        // Disjoint cubes stay disjoint, or their number would double with each union.
        let mut joined = other.without(self)?;
        joined.v4 = union(&self.v4, &other.v4);
        joined.v6 = union(&self.v6, &other.v6);
        joined.guests.extend(self.guests.iter().cloned());
        if joined.guests.len() > CUBES_MAX {
            return Err(TooMany);
        }
        Ok(joined)
    }
}

fn meet(one: &[Run], two: &[Run]) -> bool {
    let (mut i, mut j) = (0, 0);
    while let (Some(a), Some(b)) = (one.get(i), two.get(j)) {
        if a.0 <= b.1 && b.0 <= a.1 {
            return true;
        }
        if a.1 < b.1 {
            i += 1;
        } else {
            j += 1;
        }
    }
    false
}

fn both(one: &[Run], two: &[Run]) -> Vec<Run> {
    let (mut i, mut j) = (0, 0);
    let mut runs = Vec::new();
    while let (Some(a), Some(b)) = (one.get(i), two.get(j)) {
        let (first, last) = (a.0.max(b.0), a.1.min(b.1));
        if first <= last {
            runs.push((first, last));
        }
        if a.1 < b.1 {
            i += 1;
        } else {
            j += 1;
        }
    }
    runs
}

fn less(one: &[Run], two: &[Run]) -> Vec<Run> {
    let mut runs = Vec::new();
    let mut j = 0;
    for (first, last) in one {
        let mut next = Some(*first);
        while let (Some(begin), Some((low, high))) = (next, two.get(j).copied()) {
            if high < begin {
                j += 1;
                continue;
            }
            if low > *last {
                break;
            }
            if low > begin {
                runs.push((begin, low - 1));
            }
            next = high.checked_add(1).filter(|next| next <= last);
            if high < *last {
                j += 1;
            }
        }
        runs.extend(next.map(|begin| (begin, *last)));
    }
    runs
}

fn union(one: &[Run], two: &[Run]) -> Vec<Run> {
    let mut all: Vec<Run> = one.iter().chain(two).copied().collect();
    all.sort_unstable();
    let mut runs: Vec<Run> = Vec::new();
    for (first, last) in all {
        match runs.last_mut() {
            Some(open) if first <= open.1 || first - open.1 == 1 => open.1 = open.1.max(last),
            _ => runs.push((first, last)),
        }
    }
    runs
}

/// Numbers for the labels and values that a policy's selectors name, and all ends.
pub(crate) struct Space<'p> {
    pub(crate) policy: &'p Policy,
    labels: HashMap<&'p str, (u32, HashMap<&'p str, u32>)>,
    all: Region,
    hosts: u32,
}

impl<'p> Space<'p> {
    pub(crate) fn of(policy: &'p Policy) -> Self {
        let mut space = Self::named(policy, &[policy]);
        space.all = space.everybody();
        space
    }

    /// Of two policies, with the same numbers for the same names.
    pub(crate) fn joint(one: &'p Policy, two: &'p Policy) -> [Self; 2] {
        [one, two].map(|policy| {
            let mut space = Self::named(policy, &[one, two]);
            space.all = space.everybody();
            space
        })
    }

    fn named(policy: &'p Policy, all: &[&'p Policy]) -> Self {
        let mut space = Self {
            policy,
            labels: HashMap::new(),
            all: Region::default(),
            hosts: 0,
        };
        space.hosts = space.label(HOST_LABEL);
        for policy in all {
            for (name, label) in &policy.labels {
                if label.required {
                    space.label(name);
                }
                for value in label.values.iter().flatten() {
                    space.value(name, value);
                }
            }
            let rules = policy.rules().flat_map(|(_, rule)| [&rule.from, &rule.to]);
            let scopes = policy.scopes.values().map(|scope| &scope.selector);
            for selector in rules.chain(scopes) {
                space.enter(selector);
            }
        }
        space
    }

    fn label(&mut self, name: &'p str) -> u32 {
        let next = u32::try_from(self.labels.len()).unwrap_or(u32::MAX);
        self.labels
            .entry(name)
            .or_insert_with(|| (next, HashMap::new()))
            .0
    }

    fn value(&mut self, name: &'p str, value: &'p str) {
        self.label(name);
        if let Some((_, values)) = self.labels.get_mut(name) {
            let next = u32::try_from(values.len() + 1).unwrap_or(u32::MAX);
            values.entry(value).or_insert(next);
        }
    }

    fn enter(&mut self, selector: &'p Selector) {
        match selector {
            Selector::Label { name, value } => self.value(name, value),
            Selector::Has(name) => {
                self.label(name);
            }
            Selector::Not(inner) => self.enter(inner),
            Selector::All(parts) | Selector::Either(parts) => {
                parts.iter().for_each(|part| self.enter(part));
            }
            _ => {}
        }
    }

    /// Every address, and every guest that is not in quarantine: nothing is ever allowed to others.
    fn everybody(&self) -> Region {
        let (mut guest, mut host) = (Cube::default(), Cube::default());
        for (name, label) in &self.policy.labels {
            let Some((number, values)) = self.labels.get(name.as_str()) else {
                continue;
            };
            let listed = label.values.as_ref().map(|list| {
                let known = list.iter().filter_map(|value| values.get(value.as_str()));
                known.copied().collect::<Vec<u32>>()
            });
            let add = |cube: &mut Cube, absent: bool| {
                let allowed = match (&listed, absent) {
                    (Some(list), true) => Values::In([0].iter().chain(list).copied().collect()),
                    (Some(list), false) => Values::In(list.clone()),
                    (None, false) => Values::Out(vec![0]),
                    (None, true) => return,
                };
                let sorted = match allowed {
                    Values::In(mut list) => {
                        list.sort_unstable();
                        Values::In(list)
                    }
                    other => other,
                };
                if let Some(with) = std::mem::take(cube).with(*number, &sorted) {
                    *cube = with;
                }
            };
            add(&mut guest, !label.required);
            add(&mut host, true);
        }
        let cube = |cube: Cube, values: Values| cube.with(self.hosts, &values);
        let guests = [
            cube(guest, Values::In(vec![0])),
            cube(host, Values::Out(vec![0])),
        ];
        Region {
            v4: vec![(0, u32::MAX.into())],
            v6: vec![(0, u128::MAX)],
            guests: guests.into_iter().flatten().collect(),
        }
    }

    /// What a selector can match.
    pub(crate) fn region(&self, selector: &Selector) -> Result<Region, TooMany> {
        let outside = || Region {
            guests: Vec::new(),
            ..self.all.clone()
        };
        let labelled = |name: &str, values: &dyn Fn(&HashMap<&str, u32>) -> Values| {
            let known = self.labels.get(name);
            let cube =
                known.and_then(|(label, known)| Cube::default().with(*label, &values(known)));
            let region = Region {
                guests: cube.into_iter().collect(),
                ..Region::default()
            };
            self.all.and(&region)
        };
        match selector {
            Selector::Any => Ok(self.all.clone()),
            Selector::Outside => Ok(outside()),
            Selector::Guests => {
                let hosts = labelled(HOST_LABEL, &|_| Values::Out(vec![0]))?;
                self.all.guests().without(&hosts)
            }
            Selector::Hosts => labelled(HOST_LABEL, &|_| Values::Out(vec![0])),
            Selector::Has(name) => labelled(name, &|_| Values::Out(vec![0])),
            Selector::Label { name, value } => labelled(name, &|known| {
                Values::In(known.get(value.as_str()).copied().into_iter().collect())
            }),
            Selector::Set(name) => Ok(self.set(name)),
            Selector::Computed(_) => Ok(Region::default()),
            Selector::Not(inner) => self.all.without(&self.region(inner)?),
            Selector::All(parts) => {
                let mut region = self.all.clone();
                for part in parts {
                    region = region.and(&self.region(part)?)?;
                }
                Ok(region)
            }
            Selector::Either(parts) => {
                let mut region = Region::default();
                for part in parts {
                    region = region.or(&self.region(part)?)?;
                }
                Ok(region)
            }
        }
    }

    /// Exactly one end.
    pub(crate) fn point(&self, end: &End) -> Region {
        let mut region = Region::default();
        match end {
            End::Guest(labels) => {
                let mut cube = Cube::default();
                for (name, (number, known)) in &self.labels {
                    let values = match labels.get(*name) {
                        None => Values::In(vec![0]),
                        Some(value) => match known.get(value.as_str()) {
                            Some(value) => Values::In(vec![*value]),
                            None => Values::Out((0..=known.len() as u32).collect()),
                        },
                    };
                    cube = cube.with(*number, &values).expect("one value each");
                }
                region.guests.push(cube);
            }
            End::Address(IpAddr::V4(address)) => {
                let bits = u32::from(*address).into();
                region.v4.push((bits, bits));
            }
            End::Address(IpAddr::V6(address)) => {
                let bits = u128::from(*address);
                region.v6.push((bits, bits));
            }
        }
        region
    }

    /// One end of a region: a guest if there is one.
    pub(crate) fn example(&self, region: &Region) -> Option<End> {
        if let Some(cube) = region.guests.first() {
            let mut labels = Labels::new();
            for (number, values) in &cube.0 {
                let value = self.value_of(*number, values)?;
                labels.extend(value);
            }
            return Some(End::Guest(labels));
        }
        let v4 = region
            .v4
            .first()
            .and_then(|(first, _)| u32::try_from(*first).ok());
        let v4 = v4.map(|bits| IpAddr::V4(Ipv4Addr::from(bits)));
        let v6 = region.v6.first();
        let v6 = v6.map(|(first, _)| IpAddr::V6(Ipv6Addr::from(*first)));
        v4.or(v6).map(End::Address)
    }

    fn named_label(&self, number: u32) -> Option<(&'p str, &HashMap<&'p str, u32>)> {
        let mut labels = self.labels.iter();
        labels.find_map(|(name, (own, values))| (*own == number).then_some((*name, values)))
    }

    /// A label with one of some values, or without it.
    fn value_of(&self, number: u32, values: &Values) -> Option<Option<(String, String)>> {
        let (name, known) = self.named_label(number)?;
        if values.has(0) {
            return Some(None);
        }
        let mut listed: Vec<&str> = known
            .iter()
            .filter(|(_, value)| values.has(**value))
            .map(|(text, _)| *text)
            .collect();
        listed.sort_unstable();
        // A value that no policy names, if none of those that are named will do.
        let other = (0..)
            .map(|n| format!("other{n}"))
            .find(|one| !known.contains_key(one.as_str()));
        let value = listed.first().map(|one| (*one).to_owned()).or(other)?;
        Some(Some((name.to_owned(), value)))
    }

    /// A region as an expression of the language, as far as that has words for it; addresses that
    /// are no set stand as prefixes.
    pub(crate) fn text(&self, region: &Region) -> String {
        let cubes = region.guests.iter().map(|cube| self.cube_text(cube));
        let cubes: BTreeSet<String> = cubes.collect();
        // A label that guests and hosts have alike needs no word for either.
        let twin = |one: &str, own: &str, other: &str| {
            let rest = one.strip_prefix(own)?.strip_prefix(" & ")?;
            let known = cubes.contains(&format!("{other} & {rest}"));
            known.then(|| rest.to_owned())
        };
        let mut parts: Vec<String> = Vec::new();
        for cube in &cubes {
            if twin(cube, "hosts", "guests").is_none() {
                parts.push(twin(cube, "guests", "hosts").unwrap_or_else(|| cube.clone()));
            }
        }
        let outside = Region {
            guests: Vec::new(),
            ..region.clone()
        };
        let everything = |region: &Region| (&region.v4, &region.v6) == (&self.all.v4, &self.all.v6);
        if !outside.is_empty() {
            let mut sets = self.policy.sets.keys();
            match sets.find(|name| self.set(name) == outside) {
                _ if everything(&outside) => parts.push("outside".to_owned()),
                Some(name) => parts.push(format!("set:{name}")),
                None => parts.extend(prefixes(&outside)),
            }
        }
        parts.dedup();
        parts.join(" or ")
    }

    fn cube_text(&self, cube: &Cube) -> String {
        let mut parts = Vec::new();
        let free = |number: u32, values: &Values| {
            self.all.guests.iter().any(|all| {
                let own = all.0.iter().find(|(label, _)| *label == number);
                own.is_some_and(|(_, all)| all == values)
            })
        };
        for (number, values) in &cube.0 {
            let Some((name, known)) = self.named_label(*number) else {
                continue;
            };
            let list = |values: &[u32]| -> Vec<String> {
                let mut names: Vec<String> = known
                    .iter()
                    .filter(|(_, value)| values.contains(value))
                    .map(|(text, _)| format!("{name}:{text}"))
                    .collect();
                names.sort();
                names
            };
            let joined = |names: Vec<String>| match names.as_slice() {
                [one] => one.clone(),
                _ => format!("({})", names.join(" or ")),
            };
            match values {
                // What every guest has is no news.
                _ if *number != self.hosts && free(*number, values) => {}
                Values::In(values) if *number == self.hosts && values == &[0] => {
                    parts.insert(0, "guests".to_owned());
                }
                Values::Out(values) if *number == self.hosts && values == &[0] => {
                    parts.insert(0, "hosts".to_owned());
                }
                Values::In(values) => {
                    let mut names = list(values);
                    if values.contains(&0) {
                        names.push(format!("not {name}:*"));
                    }
                    parts.push(joined(names));
                }
                Values::Out(values) => {
                    if values.contains(&0) {
                        parts.push(format!("{name}:*"));
                    }
                    parts.extend(list(values).into_iter().map(|one| format!("not {one}")));
                }
            }
        }
        parts.join(" & ")
    }

    fn set(&self, name: &str) -> Region {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for prefix in self.policy.sets.get(name).into_iter().flatten() {
            match prefix {
                IpNet::V4(net) => v4.push((
                    u32::from(net.network()).into(),
                    u32::from(net.broadcast()).into(),
                )),
                IpNet::V6(net) => v6.push((net.network().into(), net.broadcast().into())),
            }
        }
        Region {
            v4: union(&v4, &[]),
            v6: union(&v6, &[]),
            guests: Vec::new(),
        }
    }
}

/// The fewest prefixes of a region's addresses, the first of them if they are many.
fn prefixes(region: &Region) -> Vec<String> {
    const SHOWN: usize = 8;
    let v4 = region.v4.iter().filter_map(|(first, last)| {
        let bits = |bits: u128| u32::try_from(bits).ok().map(Ipv4Addr::from);
        Some(IpSubnets::from(Ipv4Subnets::new(
            bits(*first)?,
            bits(*last)?,
            0,
        )))
    });
    let v6 = region.v6.iter().map(|(first, last)| {
        let (first, last) = (Ipv6Addr::from(*first), Ipv6Addr::from(*last));
        IpSubnets::from(Ipv6Subnets::new(first, last, 0))
    });
    let mut all = v4.chain(v6).flatten();
    let mut shown: Vec<String> = all
        .by_ref()
        .take(SHOWN)
        .map(|prefix| prefix.to_string())
        .collect();
    let more = all.count();
    if more > 0 {
        shown.push(format!("{more} more prefixes"));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs against the numbers that are in them.
    #[test]
    fn runs_are_sets_of_numbers() {
        let sets: [&[Run]; 6] = [
            &[],
            &[(0, 3)],
            &[(2, 2), (4, 9)],
            &[(0, 0), (3, 5), (9, 9)],
            &[(5, 5)],
            &[(0, 10)],
        ];
        let list = |runs: &[Run]| {
            (0..12_u128)
                .filter(|n| runs.iter().any(|(a, b)| a <= n && n <= b))
                .collect::<Vec<_>>()
        };
        for one in sets {
            for two in sets {
                let (x, y) = (list(one), list(two));
                let common: Vec<u128> = x.iter().copied().filter(|n| y.contains(n)).collect();
                let rest: Vec<u128> = x.iter().copied().filter(|n| !y.contains(n)).collect();
                assert_eq!(list(&both(one, two)), common, "{one:?} {two:?}");
                assert_eq!(list(&less(one, two)), rest, "{one:?} {two:?}");
                assert_eq!(meet(one, two), !common.is_empty());
                let mut all = [x, y].concat();
                all.sort_unstable();
                all.dedup();
                assert_eq!(list(&union(one, two)), all);
            }
        }
        assert_eq!(less(&[(0, u128::MAX)], &[(5, u128::MAX)]), [(0, 4)]);
    }
}
