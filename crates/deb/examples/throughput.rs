//! Measures how fast packages are read: `throughput FILE.deb...`.
#![allow(clippy::print_stdout)]

use std::fs::File;
use std::io::{self, Read};
use std::time::Instant;

use apt_ostree_deb::{DataSink, DebReader, Entry, Limits};

/// Reads all content and keeps nothing.
struct Discard(Vec<u8>);

impl DataSink for Discard {
    fn entry(&mut self, _: &Entry, content: &mut dyn Read) -> anyhow::Result<()> {
        while content.read(&mut self.0)? > 0 {}
        Ok(())
    }
}

fn main() -> anyhow::Result<()> {
    for path in std::env::args_os().skip(1) {
        let file = File::open(&path)?;
        let packed = file.metadata()?.len();
        let start = Instant::now();
        let reader = DebReader::open(file, Limits::default())?;
        let name = reader.control().package().clone();
        let compression = reader.compression();
        let summary = reader.data(&mut Discard(vec![0; 64 * 1024]))?;
        let seconds = start.elapsed().as_secs_f64();
        let rate = |bytes: u64| bytes as f64 / 1e6 / seconds;
        println!(
            "{name}: {compression:?}, {} entries, {:.1} MB packed, {:.1} MB unpacked, {seconds:.2} s, \
             {:.0} MB/s packed, {:.0} MB/s unpacked",
            summary.entries,
            packed as f64 / 1e6,
            summary.size as f64 / 1e6,
            rate(packed),
            rate(summary.size)
        );
    }
    io::Write::flush(&mut io::stdout())?;
    Ok(())
}
