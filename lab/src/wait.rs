//! Waiting for something that another process does.

use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// How long between two looks.
const PAUSE: Duration = Duration::from_millis(50);
/// How long between two looks that cost others time.
const LONG_PAUSE: Duration = Duration::from_millis(200);

/// Looks again and again until there is something, or an error, or the limit.
///
/// # Errors
/// What the look returns, or that nothing came within the limit; `what` says of what.
pub fn until<T>(what: &str, limit: Duration, look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    look_every(PAUSE, (what, limit), look)
}

/// As [`until`], for looks that cost whoever is asked a good part of its time.
///
/// # Errors
/// As for [`until`].
pub fn seldom<T>(
    what: &str,
    limit: Duration,
    look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    look_every(LONG_PAUSE, (what, limit), look)
}

fn look_every<T>(
    pause: Duration,
    (what, limit): (&str, Duration),
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() > end {
            bail!("{what}: waited for {limit:?} in vain");
        }
        std::thread::sleep(pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_finds_something_ends_the_waiting_and_one_that_never_does_is_an_error() {
        let mut looks = 0;
        let found = until("the third look", Duration::from_secs(60), || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        });
        assert_eq!(found.expect("the third look finds it"), 3);
        let error = until("a thing", Duration::ZERO, || Ok(None::<()>));
        let text = error.expect_err("nothing is ever found").to_string();
        assert!(text.contains("a thing"), "{text}");
    }
}
