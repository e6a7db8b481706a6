//! Texts that are nearly sound: pieces of sound ones, cut, joined, repeated and spoiled.

use crate::common::{Random, number};

/// Bytes of a mutated text.
const BYTES_MAX: usize = 32_768;

/// One of the seeds with up to eight faults.
pub(crate) fn mutated(seeds: &[Vec<u8>], words: &[&str], random: &mut Random) -> Vec<u8> {
    let mut text = seeds[random.below(seeds.len() as u64) as usize].clone();
    text.truncate(BYTES_MAX);
    for _ in 0..=random.below(8) {
        fault(&mut text, (seeds, words), random);
        text.truncate(BYTES_MAX);
    }
    text
}

fn fault(text: &mut Vec<u8>, (seeds, words): (&[Vec<u8>], &[&str]), random: &mut Random) {
    let (first, last) = run(text.len(), random);
    match random.below(7) {
        0 => drop(text.drain(first..last)),
        1 => {
            let piece = text[first..last].to_vec();
            text.splice(last..last, piece);
        }
        2 => {
            let other = &seeds[random.below(seeds.len() as u64) as usize];
            let (from, to) = run(other.len(), random);
            text.splice(first..last, other[from..to].iter().copied());
        }
        3 | 4 => {
            let word = random.pick(words);
            let count = if random.below(20) == 0 { 400 } else { 1 };
            text.splice(first..first, word.repeat(count).into_bytes());
        }
        5 if first < last => text[first] = random.next() as u8,
        _ => {
            let other = random.pick(&["0", "-1", "65536", "4294967296", "1e9", "255", ""]);
            let digits = text[first..]
                .iter()
                .take_while(|byte| byte.is_ascii_digit());
            let end = first + digits.count();
            text.splice(first..end, other.bytes());
        }
    }
}

/// A short run of places, more often at the beginning of a word than not.
fn run(length: usize, random: &mut Random) -> (usize, usize) {
    let first = random.below(length as u64 + 1) as usize;
    let most = if random.below(4) == 0 { 400 } else { 24 };
    (first, (first + random.below(most) as usize).min(length))
}

/// Tries texts until the time that `LICTOR_FUZZ_SECONDS` gives is over, or so many. A text that
/// makes `tried` panic is written to the file of `LICTOR_FUZZ_FILE`.
pub(crate) fn fuzz(usual: u64, tried: impl Fn(&mut Random) -> Vec<u8>, check: impl Fn(&[u8])) {
    let seconds = number("LICTOR_FUZZ_SECONDS", 0);
    let begun = std::time::Instant::now();
    let first = number("LICTOR_SEED", 0);
    for seed in first.. {
        let over = match seconds {
            0 => seed - first >= usual,
            _ => begun.elapsed().as_secs() >= seconds,
        };
        if over {
            eprintln!("{} texts from seed {first} on", seed - first);
            return;
        }
        let text = tried(&mut Random(seed));
        let call = std::panic::AssertUnwindSafe(|| check(&text));
        if let Err(panic) = std::panic::catch_unwind(call) {
            if let Some(path) = std::env::var_os("LICTOR_FUZZ_FILE") {
                std::fs::write(&path, &text).expect("the file of LICTOR_FUZZ_FILE");
            }
            eprintln!("seed {seed}: {}", String::from_utf8_lossy(&text));
            std::panic::resume_unwind(panic);
        }
    }
}
