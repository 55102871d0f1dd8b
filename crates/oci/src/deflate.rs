//! The blocks of a deflate stream (RFC 1951), as far as joining streams needs.
//!
//! Whole-buffer encoders are twice as fast as streaming ones, but end each buffer with a block that
//! is marked as the last of its stream. Where that block starts is written nowhere: the symbols
//! before it have to be read, though nothing has to be unpacked.

use std::fmt;

/// Bytes that are no deflate stream, or more than one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a complete deflate stream")
    }
}

impl std::error::Error for Malformed {}

/// What follows the header of an empty stored block: its length and the complement of that.
const EMPTY: [u8; 4] = [0, 0, 0xff, 0xff];

/// Makes a complete stream one that others can follow: no block is the last any more, and the end
/// is that of a byte.
///
/// # Errors
/// When `stream` is not one complete deflate stream; it is as it was then.
pub(crate) fn open_end(stream: &mut Vec<u8>) -> Result<(), Malformed> {
    let Ends { last, end } = walk(stream)?;
    stream[last / 8] &= !(1 << (last % 8));
    // The three bits of the header are zero, as is the padding after the end.
    if stream.len() * 8 < end + 3 {
        stream.push(0);
    }
    stream.extend_from_slice(&EMPTY);
    Ok(())
}

/// Places in a stream, in bits from its start.
#[derive(Debug, PartialEq, Eq)]
struct Ends {
    /// The header of the last block.
    last: usize,
    /// After the last block.
    end: usize,
}

fn walk(stream: &[u8]) -> Result<Ends, Malformed> {
    let mut bits = Bits {
        stream,
        buffer: 0,
        have: 0,
        at: 0,
    };
    let mut codes = Codes::default();
    loop {
        let last = bits.position();
        bits.refill()?;
        let is_last = bits.take(1) == 1;
        match bits.take(2) {
            0 => bits.skip_stored()?,
            1 => {
                codes.fixed()?;
                codes.skip_symbols(&mut bits)?;
            }
            2 => {
                codes.read(&mut bits)?;
                codes.skip_symbols(&mut bits)?;
            }
            _ => return Err(Malformed),
        }
        if is_last {
            let end = bits.position();
            let is_all = end <= stream.len() * 8 && end.div_ceil(8) == stream.len();
            let padding = stream.last().map_or(0, |byte| byte >> ((end + 7) % 8) >> 1);
            return if is_all && padding == 0 {
                Ok(Ends { last, end })
            } else {
                Err(Malformed)
            };
        }
    }
}

/// Reads bits, the lowest of a byte first.
struct Bits<'a> {
    stream: &'a [u8],
    /// Bits that were loaded and not taken.
    buffer: u64,
    have: usize,
    /// Bytes loaded; more than there are when zeros were made up behind the end.
    at: usize,
}

impl Bits<'_> {
    const fn position(&self) -> usize {
        self.at * 8 - self.have
    }

    /// Makes at least 56 bits available; behind the end they are zero.
    #[inline(always)]
    fn refill(&mut self) -> Result<(), Malformed> {
        if let Some(word) = self
            .stream
            .get(self.at..)
            .and_then(|rest| rest.first_chunk::<8>())
        {
            self.buffer |= u64::from_le_bytes(*word) << self.have;
            self.at += (63 - self.have) / 8;
            self.have |= 56;
            return Ok(());
        }
        while self.have < 56 {
            let byte = self.stream.get(self.at).copied().unwrap_or(0);
            self.buffer |= u64::from(byte) << self.have;
            self.have += 8;
            self.at += 1;
        }
        // A symbol or two may be looked at behind the end, but not taken.
        if self.position() > self.stream.len() * 8 {
            return Err(Malformed);
        }
        Ok(())
    }

    #[inline(always)]
    const fn drop(&mut self, count: usize) {
        self.buffer >>= count;
        self.have -= count;
    }

    /// The next bits, of which there must be as many.
    const fn take(&mut self, count: usize) -> usize {
        let value = self.buffer & ((1 << count) - 1);
        self.drop(count);
        value as usize
    }

    fn skip_stored(&mut self) -> Result<(), Malformed> {
        let start = self.position().div_ceil(8);
        let header = self
            .stream
            .get(start..)
            .and_then(|rest| rest.first_chunk::<4>());
        let &[a, b, c, d] = header.ok_or(Malformed)?;
        let length = u16::from_le_bytes([a, b]);
        if length != !u16::from_le_bytes([c, d]) {
            return Err(Malformed);
        }
        self.at = start + 4 + usize::from(length);
        (self.buffer, self.have) = (0, 0);
        if self.at > self.stream.len() {
            return Err(Malformed);
        }
        Ok(())
    }
}

/// In an entry of a [`Table`]: how many bits the symbol and what follows it have.
const LENGTH: u8 = 0x1f;
/// What the symbol is: nothing special when no bit is set.
const KIND: u8 = 0xe0;
/// A distance follows.
const MATCH: u8 = 0x20;
/// The block ends.
const END: u8 = 0x40;
/// No symbol has this code.
const NONE: u8 = 0x80;

const MAX_BITS: usize = 15;
const LITERALS: usize = 288;
const DISTANCES: usize = 32;

/// The entry of each literal or length: extra bits and kind (RFC 1951, 3.2.5).
const fn literal(symbol: usize) -> u8 {
    match symbol {
        0..256 => 0,
        256 => END,
        257..265 | 285 => MATCH,
        265..285 => MATCH | ((symbol - 261) / 4) as u8,
        _ => NONE,
    }
}

/// The entry of each distance.
const fn distance(symbol: usize) -> u8 {
    match symbol {
        0..4 => 0,
        4..30 => symbol as u8 / 2 - 1,
        _ => NONE,
    }
}

/// The entry of a symbol of the code of code lengths: the symbol itself, told apart by
/// [`Codes::read`].
const fn plain(_symbol: usize) -> u8 {
    0
}

/// What the next bits mean, for all values of as many bits as the longest code has.
#[derive(Default)]
struct Table {
    entries: Vec<u8>,
    /// The symbol of each entry; filled on request only.
    symbols: Vec<u8>,
    mask: usize,
}

impl Table {
    /// Fills the table from the lengths of a canonical code.
    fn build(
        &mut self,
        lengths: &[u8],
        entry: impl Fn(usize) -> u8,
        with_symbols: bool,
    ) -> Result<(), Malformed> {
        let mut count = [0_u32; MAX_BITS + 1];
        for &length in lengths {
            count[usize::from(length)] += 1;
        }
        let longest = (1..=MAX_BITS).rev().find(|&l| count[l] > 0).unwrap_or(1);
        let mut next = [0_u32; MAX_BITS + 2];
        for length in 1..=MAX_BITS {
            next[length + 1] = (next[length] + count[length]) << 1;
            if next[length] + count[length] > 1 << length {
                return Err(Malformed);
            }
        }
        let size = 1 << longest;
        self.mask = size - 1;
        self.entries.clear();
        self.entries.resize(size, NONE);
        self.symbols.resize(if with_symbols { size } else { 0 }, 0);
        for (symbol, &length) in lengths.iter().enumerate().filter(|&(_, l)| *l > 0) {
            let code = &mut next[usize::from(length)];
            let start = (code.reverse_bits() >> (32 - u32::from(length))) as usize;
            *code += 1;
            // Extra bits and the bits of the code never reach the bits of the kind.
            let value = entry(symbol) + length;
            for index in (start..size).step_by(1 << length) {
                self.entries[index] = value;
                if with_symbols {
                    self.symbols[index] = symbol as u8;
                }
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn look_up(&self, buffer: u64) -> u8 {
        let index = buffer as usize & self.mask;
        self.entries.get(index).copied().unwrap_or(NONE)
    }
}

/// The codes of a block.
#[derive(Default)]
struct Codes {
    literals: Table,
    distances: Table,
    lengths: Table,
}

impl Codes {
    /// The codes that need no description.
    fn fixed(&mut self) -> Result<(), Malformed> {
        let mut lengths = [8; LITERALS];
        lengths[144..256].fill(9);
        lengths[256..280].fill(7);
        self.literals.build(&lengths, literal, false)?;
        self.distances.build(&[5; DISTANCES], distance, false)
    }

    /// Reads the description of the codes of a block.
    fn read(&mut self, bits: &mut Bits<'_>) -> Result<(), Malformed> {
        const ORDER: [usize; 19] = [
            16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
        ];
        bits.refill()?;
        let literals = 257 + bits.take(5);
        let total = literals + 1 + bits.take(5);
        let mut lengths = [0; 19];
        for &symbol in &ORDER[..4 + bits.take(4)] {
            bits.refill()?;
            lengths[symbol] = bits.take(3) as u8;
        }
        self.lengths.build(&lengths, plain, true)?;
        let mut lengths = [0_u8; LITERALS + DISTANCES];
        let mut at = 0;
        while at < total {
            bits.refill()?;
            let entry = self.lengths.look_up(bits.buffer);
            let symbol = self.lengths.symbols[bits.buffer as usize & self.lengths.mask];
            if entry & NONE != 0 {
                return Err(Malformed);
            }
            bits.drop(usize::from(entry));
            let (value, times) = match symbol {
                16 => {
                    let before = at.checked_sub(1).ok_or(Malformed)?;
                    (lengths[before], 3 + bits.take(2))
                }
                17 => (0, 3 + bits.take(3)),
                18 => (0, 11 + bits.take(7)),
                length => (length, 1),
            };
            if at + times > total {
                return Err(Malformed);
            }
            lengths[at..at + times].fill(value);
            at += times;
        }
        if literals > LITERALS {
            return Err(Malformed);
        }
        let (first, second) = lengths[..total].split_at(literals);
        self.literals.build(first, literal, false)?;
        self.distances.build(second, distance, false)
    }

    /// Skips the symbols of a block up to and with its end.
    fn skip_symbols(&self, bits: &mut Bits<'_>) -> Result<(), Malformed> {
        loop {
            bits.refill()?;
            // 56 bits are enough for two literals and a match: 15 + 15 + 20 of them come before
            // what is looked at last, the distance, for which there is another refill.
            let mut entry = self.literals.look_up(bits.buffer);
            bits.drop(usize::from(entry & LENGTH));
            for _ in 0..2 {
                if entry & KIND != 0 {
                    break;
                }
                entry = self.literals.look_up(bits.buffer);
                bits.drop(usize::from(entry & LENGTH));
            }
            match entry & KIND {
                0 => {}
                MATCH => {
                    bits.refill()?;
                    let entry = self.distances.look_up(bits.buffer);
                    if entry & NONE != 0 {
                        return Err(Malformed);
                    }
                    bits.drop(usize::from(entry & LENGTH));
                }
                END => return Ok(()),
                _ => return Err(Malformed),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::{Compress, Compression, FlushCompress};
    use proptest::prelude::*;

    use super::*;

    fn libdeflate(data: &[u8], level: i32) -> Vec<u8> {
        let level = libdeflater::CompressionLvl::new(level).unwrap();
        let mut encoder = libdeflater::Compressor::new(level);
        let mut out = vec![0; encoder.deflate_compress_bound(data.len())];
        let length = encoder.deflate_compress(data, &mut out).unwrap();
        out.truncate(length);
        out
    }

    fn zlib(data: &[u8], level: u32) -> Vec<u8> {
        let mut out = Vec::with_capacity(data.len() * 2 + 1024);
        Compress::new(Compression::new(level), false)
            .compress_vec(data, &mut out, FlushCompress::Finish)
            .unwrap();
        out
    }

    fn unpack(stream: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        flate2::read::DeflateDecoder::new(stream)
            .read_to_end(&mut out)
            .unwrap();
        out
    }

    /// Joins all streams of `data` and reads them back.
    fn require_joins(data: &[u8]) {
        let mut joined = Vec::new();
        let streams = (0..=12)
            .map(|level| libdeflate(data, level))
            .chain((0..10).map(|level| zlib(data, level)));
        let mut count = 0;
        for mut stream in streams {
            open_end(&mut stream).unwrap();
            joined.extend(stream);
            count += 1;
        }
        joined.extend([3, 0]);
        assert!(unpack(&joined) == data.repeat(count));
    }

    #[test]
    fn streams_of_many_kinds_of_blocks_can_be_joined() {
        let text: Vec<u8> = (0..90_000_u32)
            .flat_map(|i| i.to_string().into_bytes())
            .collect();
        let noise: Vec<u8> = (0..8192_u32)
            .flat_map(|i| openssl::sha::sha256(&i.to_le_bytes()))
            .collect();
        let mixed = [&text[..100_000], &noise, &text, &[0; 300_000], &noise].concat();
        for data in [&text, &noise, &mixed, &vec![7; 1 << 20]] {
            require_joins(data);
        }
    }

    #[test]
    fn short_streams_can_be_joined() {
        for length in 0..300 {
            require_joins(&(0..length).map(|i| (i * 7 % 64) as u8).collect::<Vec<_>>());
        }
    }

    #[test]
    fn every_cut_of_a_stream_is_refused() {
        let data: Vec<u8> = (0..3000_u32)
            .flat_map(|i| i.to_string().into_bytes())
            .collect();
        let stream = libdeflate(&data, 6);
        for length in 0..stream.len() {
            let mut cut = stream[..length].to_vec();
            assert_eq!(open_end(&mut cut), Err(Malformed), "{length}");
            assert_eq!(cut, stream[..length]);
        }
    }

    #[test]
    fn what_follows_the_stream_is_refused() {
        let mut stream = libdeflate(b"abc", 6);
        stream.push(0);
        assert_eq!(open_end(&mut stream), Err(Malformed));
    }

    proptest! {
        #[test]
        fn any_data_can_be_joined(data in proptest::collection::vec(0_u8..6, 0..30_000)) {
            require_joins(&data);
        }

        #[test]
        fn any_bytes_are_refused_or_joined(
            mut stream in proptest::collection::vec(any::<u8>(), 0..400),
        ) {
            let before = stream.clone();
            if open_end(&mut stream).is_err() {
                prop_assert_eq!(stream, before);
            }
        }

        #[test]
        fn damaged_streams_do_no_harm(at in any::<proptest::sample::Index>(), bit in 0..8) {
            let data: Vec<u8> = (0..500_u32).flat_map(|i| i.to_string().into_bytes()).collect();
            let mut stream = libdeflate(&data, 6);
            let at = at.index(stream.len());
            stream[at] ^= 1_u8 << bit;
            let _either = open_end(&mut stream);
        }
    }
}
