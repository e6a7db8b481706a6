//! A calendar date, because rules expire on days and not at instants.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A day in UTC, written `2026-12-31`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Date {
    year: u16,
    month: u8,
    day: u8,
}

/// The text is not a date.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a date; expected year-month-day such as 2026-12-31")]
pub struct DateError(pub String);

impl Date {
    /// The day, if the calendar has it.
    #[must_use]
    pub fn new(year: u16, month: u8, day: u8) -> Option<Self> {
        let leap =
            year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let days = match month {
            2 if leap => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            1..=12 => 31,
            _ => return None,
        };
        ((1..=days).contains(&day) && (1970..=9999).contains(&year)).then_some(Self {
            year,
            month,
            day,
        })
    }

    /// The day of the week: 0 is Monday.
    #[must_use]
    pub fn weekday(self) -> u8 {
        let year = u32::from(self.year);
        // Gauss: January and February count with the year before.
        const OFFSETS: [u32; 12] = [0, 3, 2, 5, 0, 3, 5, 1, 4, 6, 2, 4];
        let year = if self.month < 3 { year - 1 } else { year };
        let month = OFFSETS[usize::from(self.month) - 1];
        let sunday_first = year + year / 4 - year / 100 + year / 400 + month + u32::from(self.day);
        u8::try_from((sunday_first + 6) % 7).unwrap_or(0)
    }

    /// How many days it lies after another one.
    #[must_use]
    pub fn days_after(self, other: Self) -> i64 {
        self.number() - other.number()
    }

    /// Days since some day long ago: Hinnant's `days_from_civil`, with March as the first month.
    fn number(self) -> i64 {
        let (month, day) = (i64::from(self.month), i64::from(self.day));
        let year = i64::from(self.year) - i64::from(month < 3);
        let months = (month + 9) % 12;
        year * 365 + year / 4 - year / 100 + year / 400 + (153 * months + 2) / 5 + day
    }

    /// The UTC day of a Unix time. Days past the year 9999 give its last day.
    #[must_use]
    pub fn from_unix_seconds(seconds: u64) -> Self {
        let mut days = seconds / 86_400;
        let mut year = 1970;
        while year < 9999 {
            let leap = Self::new(year, 2, 29).is_some();
            let length = if leap { 366 } else { 365 };
            if days < length {
                break;
            }
            days -= length;
            year += 1;
        }
        let mut last = Self {
            year,
            month: 1,
            day: 1,
        };
        for month in 1..=12 {
            for day in 1..=31 {
                let Some(date) = Self::new(year, month, day) else {
                    break;
                };
                last = date;
                if days == 0 {
                    return date;
                }
                days -= 1;
            }
        }
        last
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!(
            "{:04}-{:02}-{:02}",
            self.year, self.month, self.day
        ))
    }
}

impl FromStr for Date {
    type Err = DateError;
    fn from_str(text: &str) -> Result<Self, DateError> {
        let error = || DateError(text.into());
        let shape = text.len() == 10
            && text.bytes().enumerate().all(|(index, byte)| match index {
                4 | 7 => byte == b'-',
                _ => byte.is_ascii_digit(),
            });
        if !shape {
            return Err(error());
        }
        let number = |range| {
            text.get(range)
                .and_then(|part: &str| part.parse::<u16>().ok())
        };
        let (year, month, day) = (number(0..4), number(5..7), number(8..10));
        let small = |part: Option<u16>| part.and_then(|part| u8::try_from(part).ok());
        match (year, small(month), small(day)) {
            (Some(year), Some(month), Some(day)) => Self::new(year, month, day).ok_or_else(error),
            _ => Err(error()),
        }
    }
}

impl TryFrom<String> for Date {
    type Error = DateError;
    fn try_from(text: String) -> Result<Self, DateError> {
        text.parse()
    }
}

impl From<Date> for String {
    fn from(date: Date) -> String {
        date.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_follow_the_gregorian_calendar() {
        let good = [
            "1970-01-01",
            "2024-02-29",
            "2000-02-29",
            "2026-12-31",
            "9999-12-31",
        ];
        for text in good {
            assert_eq!(text.parse::<Date>().expect("valid").to_string(), text);
        }
        let bad = [
            "",
            "2026-2-3",
            "2026-02-29",
            "1900-02-29",
            "2026-13-01",
            "2026-00-01",
            "2026-04-31",
            "2026-04-00",
            "1969-12-31",
            "2026/04/01",
            "+026-04-01",
            "2026-04-0é",
        ];
        for text in bad {
            assert!(text.parse::<Date>().is_err(), "{text:?} must be refused");
        }
    }

    #[test]
    fn unix_time_becomes_its_utc_day() {
        let check = |seconds, expected| {
            assert_eq!(
                Date::from_unix_seconds(seconds).to_string(),
                expected,
                "{seconds}"
            );
        };
        check(0, "1970-01-01");
        check(86_399, "1970-01-01");
        check(86_400, "1970-01-02");
        check(951_782_400, "2000-02-29");
        check(951_868_800, "2000-03-01");
        check(1_795_564_800, "2026-11-25");
        check(u64::MAX, "9999-12-31");
    }

    #[test]
    fn days_between_are_those_of_the_calendar() {
        let check = |one: &str, other: &str, expected| {
            let date = |text: &str| text.parse::<Date>().expect("a date");
            assert_eq!(date(one).days_after(date(other)), expected, "{one} {other}");
        };
        check("2026-11-24", "2026-11-24", 0);
        check("2027-01-01", "2026-12-31", 1);
        check("2028-03-01", "2028-02-28", 2);
        check("2100-03-01", "2100-02-28", 1);
        check("1970-01-01", "2026-11-24", -20_781);
    }
}
