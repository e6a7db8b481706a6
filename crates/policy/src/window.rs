//! Windows of time: days of the week and hours of the day, in UTC. A host makes its plan of a
//! release again when an hour begins: the kernel's tables have no clock.

use crate::Date;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

const NAMES: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const HOURS: u32 = 24;
const ALL_DAY: u32 = (1 << HOURS) - 1;
const ALL_WEEK: u8 = 0x7f;

/// When something is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The day.
    pub date: Date,
    /// The hour.
    pub hour: Hour,
}

/// The hour of a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hour {
    /// Any hour that suits: of a day as a whole is asked what may be on it.
    Some,
    /// This one, from 0 to 23.
    At(u8),
    /// The clock is not believed: no window is open.
    Unknown,
}

impl From<Date> for Moment {
    fn from(date: Date) -> Self {
        let hour = Hour::Some;
        Self { date, hour }
    }
}

impl Moment {
    /// The UTC day and hour of a Unix time.
    #[must_use]
    pub fn from_unix_seconds(seconds: u64) -> Self {
        let hour = u8::try_from(seconds / 3_600 % u64::from(HOURS)).map_or(Hour::Unknown, Hour::At);
        let date = Date::from_unix_seconds(seconds);
        Self { date, hour }
    }

    /// That day by a clock that is not believed.
    #[must_use]
    pub const fn doubted(self) -> Self {
        let (date, hour) = (self.date, Hour::Unknown);
        Self { date, hour }
    }
}

/// Days of the week, Monday being the lowest bit, and hours of those days: at least one of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Window {
    days: u8,
    hours: u32,
}

/// The text names no days of the week and hours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no window; expected days, or days and hours, such as mon-fri or sat,sun 08-18")]
pub struct WindowError(pub String);

impl Window {
    /// Whether the day is one of its days.
    #[must_use]
    pub fn contains(self, date: Date) -> bool {
        self.days >> date.weekday() & 1 == 1
    }

    /// Whether it is open at every hour of its days.
    #[must_use]
    pub const fn is_all_day(self) -> bool {
        self.hours == ALL_DAY
    }

    /// Whether it is open.
    #[must_use]
    pub fn is_open(self, moment: Moment) -> bool {
        self.contains(moment.date)
            && match moment.hour {
                Hour::Some => true,
                Hour::At(hour) => self.hours >> hour & 1 == 1,
                Hour::Unknown => false,
            }
    }

    /// What both name together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        let (days, hours) = (self.days | other.days, self.hours | other.hours);
        Self { days, hours }
    }

    /// A day, or a run of days such as `mon-fri`, which may go over the end of the week; of no hour
    /// yet.
    #[must_use]
    pub fn days(item: &str) -> Option<Self> {
        let day = |name: &str| NAMES.iter().position(|known| *known == name);
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        let (first, last) = (day(first)?, day(last)?);
        let length = (last + NAMES.len() - first) % NAMES.len();
        let days = (0..=length).fold(0, |days, step| days | 1 << ((first + step) % NAMES.len()));
        Some(Self { days, hours: 0 })
    }

    /// From one hour until another one, such as `08-18`; of no day yet.
    #[must_use]
    pub fn hours(item: &str) -> Option<Self> {
        let hour = |text: &str| {
            let two = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
            two.then(|| text.parse::<u32>().ok()).flatten()
        };
        let (first, end) = item.split_once('-')?;
        let (first, end) = (hour(first)?, hour(end)?);
        if first >= end || end > HOURS {
            return None;
        }
        let hours = (first..end).fold(0, |hours, hour| hours | 1 << hour);
        Some(Self { days: 0, hours })
    }

    /// On every day if it names none, all day if it names no hours.
    #[must_use]
    pub const fn whole(self) -> Self {
        let days = if self.days == 0 { ALL_WEEK } else { self.days };
        let hours = if self.hours == 0 { ALL_DAY } else { self.hours };
        Self { days, hours }
    }
}

impl FromStr for Window {
    type Err = WindowError;
    /// As it is written: days with commas, and hours with commas after a space.
    fn from_str(text: &str) -> Result<Self, WindowError> {
        let error = || WindowError(text.into());
        let (days, hours) = match text.split_once(' ') {
            Some((days, hours)) => (days, Some(hours)),
            None => (text, None),
        };
        let join = |one: Option<Self>, two: Option<Self>| Some(one?.with(two?));
        let days = days.split(',').map(Self::days).reduce(join).flatten();
        let found = days.ok_or_else(error)?;
        let Some(hours) = hours else {
            return Ok(found.whole());
        };
        let hours = hours.split(',').map(Self::hours).reduce(join).flatten();
        Ok(found.with(hours.ok_or_else(error)?))
    }
}

impl TryFrom<String> for Window {
    type Error = WindowError;
    fn try_from(text: String) -> Result<Self, WindowError> {
        text.parse()
    }
}

impl From<Window> for String {
    fn from(window: Window) -> String {
        window.to_string()
    }
}

/// Runs of bits: the first of each, and the one behind its last.
fn runs(bits: u32) -> impl Iterator<Item = (usize, usize)> {
    let on = move |place: usize| place < 32 && bits >> place & 1 == 1;
    let begins = (0..32_usize).filter(move |place| on(*place) && (*place == 0 || !on(place - 1)));
    begins.map(move |first| (first, (first..=32).find(|end| !on(*end)).unwrap_or(32)))
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days = runs(self.days.into()).map(|(first, end)| match end - first {
            1 => NAMES[first].to_owned(),
            _ => format!("{}-{}", NAMES[first], NAMES[end - 1]),
        });
        f.write_str(&days.collect::<Vec<_>>().join(","))?;
        if self.hours == ALL_DAY {
            return Ok(());
        }
        let hours = runs(self.hours).map(|(first, end)| format!("{first:02}-{end:02}"));
        write!(f, " {}", hours.collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_read_written_and_asked() {
        let check = |text: &str, expected: &str| {
            let days: Window = text.parse().expect("days");
            assert_eq!(days.to_string(), expected);
        };
        check("mon", "mon");
        check("mon-fri", "mon-fri");
        check("sat-mon", "mon,sat-sun");
        check("sun,mon,tue", "mon-tue,sun");
        check("mon-sun", "mon-sun");
        check("mon-fri 08-18", "mon-fri 08-18");
        check("sat,sun 20-24,00-06", "sat-sun 00-06,20-24");
        check("mon 00-24", "mon");
        check("mon 23-24,08-09,09-10", "mon 08-10,23-24");
        check("mon 00-24,08-10", "mon");
        for bad in [
            "",
            "monday",
            "mon-",
            "-fri",
            "mon;tue",
            "8",
            "08-18",
            "mon 8-18",
            "mon 18-08",
            "mon 08-25",
            "mon 08-08",
            "mon ",
            "mon 08:00-18:00",
            "mon 08-18 tue",
        ] {
            assert!(bad.parse::<Window>().is_err(), "{bad:?}");
        }
        let days: Window = "mon-fri".parse().expect("days");
        // 2026-11-27 is a Friday.
        for (date, expected) in [
            ("1970-01-01", true),
            ("2026-11-27", true),
            ("2026-11-28", false),
            ("2026-11-29", false),
            ("2028-02-29", true),
            ("2028-03-04", false),
        ] {
            assert_eq!(
                days.contains(date.parse().expect("a date")),
                expected,
                "{date}"
            );
        }
    }

    #[test]
    fn a_window_of_hours_is_open_from_the_first_until_the_last() {
        let window: Window = "mon-fri 08-18".parse().expect("a window");
        // 2026-11-27 is a Friday.
        const FRIDAY_S: u64 = 1_795_737_600;
        let at = |seconds| window.is_open(Moment::from_unix_seconds(seconds));
        let hour = |hour: u64| FRIDAY_S + hour * 3_600;
        let friday = Moment::from_unix_seconds(FRIDAY_S);
        assert_eq!(friday.date.to_string(), "2026-11-27");
        let open = (0..48).filter(|one| at(hour(*one)));
        assert_eq!(open.collect::<Vec<_>>(), (8..18).collect::<Vec<_>>());
        assert!(!at(hour(8) - 1) && at(hour(18) - 1));
        // Of a day as a whole is asked what may be; a clock that nobody believes opens nothing.
        assert!(window.is_open(friday.date.into()));
        let noon = Moment::from_unix_seconds(hour(12));
        assert!(window.is_open(noon) && !window.is_open(noon.doubted()));
        let days: Window = "mon-fri".parse().expect("days");
        assert!(days.is_open(noon) && !days.is_open(noon.doubted()));
    }
}
