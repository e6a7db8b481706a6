//! How much of something was used in the current second.

use std::time::Duration;

/// The second in which something was last taken, and how much was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Window {
    second: u64,
    used: u32,
}

impl Window {
    /// Takes one of `max` in this second, unless all were taken.
    pub(crate) fn take(&mut self, now: Duration, max: u32) -> bool {
        if self.second != now.as_secs() {
            *self = Self {
                second: now.as_secs(),
                used: 0,
            };
        }
        let left = self.used < max;
        self.used += u32::from(left);
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_second_has_its_own_share() {
        let mut window = Window::default();
        let mut take = |ms| window.take(Duration::from_millis(ms), 2);
        let taken = [1_000, 1_500, 1_999, 2_000].map(&mut take);
        assert_eq!(taken, [true, true, false, true]);
    }
}
