//! Windows of time: days of the week, in UTC. Hours would need a clock in the kernel's tables: a
//! host makes its plan of a release once a day.

use crate::Date;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

const NAMES: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// Days of the week; Monday is the lowest bit. At least one and not all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Days(u8);

/// The text names no days of the week.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a day of the week or a run of them; expected mon, tue, ... or mon-fri")]
pub struct DaysError(pub String);

impl Days {
    /// Whether the day is one of them.
    #[must_use]
    pub fn contains(self, date: Date) -> bool {
        self.0 >> date.weekday() & 1 == 1
    }

    /// Both together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether it is the whole week.
    #[must_use]
    pub const fn all(self) -> bool {
        self.0 == 0x7f
    }
}

impl FromStr for Days {
    type Err = DaysError;
    /// `mon`, or a run such as `mon-fri`, which may go over the end of the week; several with
    /// commas.
    fn from_str(text: &str) -> Result<Self, DaysError> {
        let error = || DaysError(text.into());
        let day = |name: &str| NAMES.iter().position(|known| *known == name);
        let mut days = 0;
        for item in text.split(',') {
            let (first, last) = item.split_once('-').unwrap_or((item, item));
            let (first, last) = (day(first).ok_or_else(error)?, day(last).ok_or_else(error)?);
            let length = (last + NAMES.len() - first) % NAMES.len();
            for step in 0..=length {
                days |= 1 << ((first + step) % NAMES.len());
            }
        }
        Ok(Self(days))
    }
}

impl TryFrom<String> for Days {
    type Error = DaysError;
    fn try_from(text: String) -> Result<Self, DaysError> {
        text.parse()
    }
}

impl From<Days> for String {
    fn from(days: Days) -> String {
        days.to_string()
    }
}

impl fmt::Display for Days {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = |day: usize| self.0 >> day & 1 == 1;
        let mut comma = "";
        let mut day = 0;
        while day < NAMES.len() {
            if on(day) {
                let last = (day..NAMES.len()).take_while(|day| on(*day)).last();
                let last = last.unwrap_or(day);
                write!(f, "{comma}{}", NAMES[day])?;
                if last > day {
                    write!(f, "-{}", NAMES[last])?;
                }
                comma = ",";
                day = last;
            }
            day += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_read_written_and_asked() {
        let check = |text: &str, expected: &str| {
            let days: Days = text.parse().expect("days");
            assert_eq!(days.to_string(), expected);
        };
        check("mon", "mon");
        check("mon-fri", "mon-fri");
        check("sat-mon", "mon,sat-sun");
        check("sun,mon,tue", "mon-tue,sun");
        check("mon-sun", "mon-sun");
        for bad in ["", "monday", "mon-", "-fri", "mon;tue", "8"] {
            assert!(bad.parse::<Days>().is_err(), "{bad:?}");
        }
        let days: Days = "mon-fri".parse().expect("days");
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
}
