//! What the fuzz target does, on the stable toolchain and with a bound: seeded changes of good
//! packages. `FUZZ_ITERATIONS` sets how many, `FUZZ_SEED` where to start.

use crate::builder::*;
use crate::mutations::{assert_sound, small};

/// A small generator (splitmix64), so that a seed gives the same run everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .map_or(default, |text| text.parse().expect("a number"))
}

/// Values that parsers trip over.
const TOKENS: [&[u8]; 12] = [
    b"../",
    b"/",
    b"./",
    b"\0",
    b"\n",
    b"9999999999",
    b"-1",
    b"\x80\0\0\0\0\0\0\0",
    b"\xff\xff",
    b"00000000000",
    b"77777777777",
    b"ustar  \0",
];

fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        match random.below(5) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => {
                let token = TOKENS[random.below(TOKENS.len())];
                let end = (at + token.len()).min(bytes.len());
                bytes[at..end].copy_from_slice(&token[..end - at]);
            }
            3 => {
                let end = (at + random.below(1024)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, piece);
            }
            _ => bytes.truncate(at.max(1)),
        }
    }
}

/// Mends header checksums, so that changes get behind them.
fn mend(tar: &mut [u8]) {
    for block in tar.chunks_exact_mut(512) {
        if &block[257..262] == b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}

#[test]
fn seeded_changes_never_break_the_rules() {
    let mut random = Random(number("FUZZ_SEED", 1));
    let packages: Vec<_> = ["", ".gz", ".xz", ".zst"].map(good).into();
    let data = tar(&[
        dir("./"),
        dir("./a/"),
        file("./a/f", "content"),
        symlink("./a/s", "f"),
        hardlink("./a/h", "./a/f"),
        file(format!("./a/{}", "l".repeat(120)), "x"),
    ]);
    let control = control_tar(CONTROL, &[file("./triggers", "interest a\n")]);
    for round in 0..number("FUZZ_ITERATIONS", 4000) {
        let bytes = if round % 2 == 0 {
            let mut bytes = packages[random.below(packages.len())].clone();
            mutate(&mut bytes, &mut random);
            bytes
        } else {
            let (mut data, mut control) = (data.clone(), control.clone());
            let victim = if random.below(3) == 0 {
                &mut control
            } else {
                &mut data
            };
            mutate(victim, &mut random);
            mend(victim);
            package(control, data)
        };
        if let Ok((sink, _)) = read_with(&bytes, small()) {
            assert_sound(&sink);
        }
    }
}

#[test]
fn seeds_of_the_fuzz_target_are_still_good_packages() {
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seeds/deb_reader");
    let mut read_seeds = 0;
    for entry in std::fs::read_dir(seeds).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        if !bytes.starts_with(b"!<arch>") {
            bytes = with_data_tar(bytes);
        }
        assert_sound(&read(&bytes).unwrap_or_else(|e| panic!("{path:?}: {e}")).0);
        read_seeds += 1;
    }
    assert!(read_seeds >= 5, "only {read_seeds} seeds");
}
