//! Compression in chunks of a fixed size, each on any thread.
//!
//! The result depends on the data alone. With gzip the chunks make one single stream (some readers
//! stop after the first member): each is a run of deflate blocks that ends on a byte boundary and
//! may refer to the 32 KiB before it. With zstd each chunk is a frame.

use std::io;

use apt_ostree_model::compose::Compression;
use flate2::{Compress, Crc, FlushCompress};
use openssl::sha::sha256;

/// A fifth faster than 6, for a half per cent more bytes.
const GZIP_LEVEL: u32 = 5;
/// For what can't be compressed: finds that out without searching.
const GZIP_LEVEL_PACKED: u32 = 1;
const ZSTD_LEVEL: i32 = 3;

/// How far back deflate refers.
const WINDOW: usize = 32 << 10;

/// No file name, no time, unknown system.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// An empty last block.
const DEFLATE_END: [u8; 2] = [3, 0];

/// How many bytes of input make a chunk.
pub(crate) const fn chunk_size(compression: Compression) -> usize {
    match compression {
        Compression::Gzip | Compression::None => 1 << 20,
        Compression::Zstd => 4 << 20,
    }
}

/// The end of `chunk` that the next chunk may refer to.
pub(crate) fn window(compression: Compression, chunk: &[u8]) -> Vec<u8> {
    match compression {
        Compression::Gzip => chunk[chunk.len().saturating_sub(WINDOW)..].to_vec(),
        Compression::Zstd | Compression::None => Vec::new(),
    }
}

/// A compressed chunk.
#[derive(Debug)]
pub(crate) struct Packed {
    pub(crate) data: Vec<u8>,
    /// Length of the input.
    pub(crate) length: usize,
    crc: Crc,
}

/// Compresses one chunk; `window` is the end of the chunk before it.
pub(crate) fn pack(compression: Compression, chunk: Vec<u8>, window: &[u8]) -> io::Result<Packed> {
    let length = chunk.len();
    let mut crc = Crc::new();
    let data = match compression {
        Compression::Gzip => {
            crc.update(&chunk);
            deflate(&chunk, window)?
        }
        Compression::Zstd => zstd::bulk::compress(&chunk, ZSTD_LEVEL)?,
        Compression::None => chunk,
    };
    Ok(Packed { data, length, crc })
}

fn deflate(chunk: &[u8], window: &[u8]) -> io::Result<Vec<u8>> {
    let level = if is_packed(chunk)? {
        GZIP_LEVEL_PACKED
    } else {
        GZIP_LEVEL
    };
    let mut encoder = Compress::new(flate2::Compression::new(level), false);
    if !window.is_empty() {
        encoder.set_dictionary(window).map_err(io::Error::other)?;
    }
    let mut out = Vec::with_capacity(chunk.len() + chunk.len() / 64 + 1024);
    loop {
        let done = encoder.total_in() as usize;
        encoder
            .compress_vec(&chunk[done..], &mut out, FlushCompress::Sync)
            .map_err(io::Error::other)?;
        if out.len() < out.capacity() {
            return Ok(out);
        }
        out.reserve(chunk.len() / 8 + 1024);
    }
}

/// Bytes in each of the [`SAMPLES`] of a chunk.
const SAMPLE: usize = 4 << 10;
const SAMPLES: usize = 8;

/// Whether samples from all over the chunk say that it is compressed data already, such as kernel
/// modules, pictures and fonts.
fn is_packed(chunk: &[u8]) -> io::Result<bool> {
    if chunk.len() < 4 * SAMPLE * SAMPLES {
        return Ok(false);
    }
    let step = chunk.len() / SAMPLES;
    let samples: Vec<u8> = chunk
        .chunks_exact(step)
        .flat_map(|part| part[..SAMPLE].iter().copied())
        .collect();
    let mut out = Vec::with_capacity(2 * samples.len());
    Compress::new(flate2::Compression::new(GZIP_LEVEL_PACKED), false)
        .compress_vec(&samples, &mut out, FlushCompress::Finish)
        .map_err(io::Error::other)?;
    Ok(out.len() * 50 > samples.len() * 49)
}

/// What is around the chunks of one stream.
#[derive(Debug)]
pub(crate) struct Framing {
    compression: Compression,
    crc: Crc,
    length: u64,
}

impl Framing {
    pub(crate) fn new(compression: Compression) -> Self {
        Self {
            compression,
            crc: Crc::new(),
            length: 0,
        }
    }

    /// What comes before the chunks.
    pub(crate) const fn start(&self) -> &'static [u8] {
        match self.compression {
            Compression::Gzip => &GZIP_HEADER,
            Compression::Zstd | Compression::None => &[],
        }
    }

    /// Takes note of the next chunk.
    pub(crate) fn add(&mut self, packed: &Packed) {
        self.crc.combine(&packed.crc);
        self.length += packed.length as u64;
    }

    /// What comes after the chunks.
    pub(crate) fn end(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if self.compression == Compression::Gzip {
            out.extend_from_slice(&DEFLATE_END);
            out.extend_from_slice(&self.crc.sum().to_le_bytes());
            // The format keeps the length modulo 2^32.
            out.extend_from_slice(&(self.length as u32).to_le_bytes());
        }
        out
    }
}

/// Tells this encoder from others: a library update that compresses differently changes it.
pub(crate) fn fingerprint(compression: Compression) -> io::Result<[u8; 32]> {
    let mut state: u32 = 1;
    let sample: Vec<u8> = (0..64 << 10_u32)
        .map(|i: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Runs, repeats and noise, so that every kind of match occurs.
            match i >> 12 & 3 {
                0 => (state >> 24) as u8,
                1 => (state >> 30) as u8,
                2 => (i / 7 % 251) as u8,
                _ => (state >> 27) as u8 & (i >> 3) as u8,
            }
        })
        .collect();
    let (window, chunk) = sample.split_at(16 << 10);
    let packed = pack(compression, chunk.to_vec(), window)?;
    Ok(sha256(&packed.data))
}

/// A reader of the plain data of a blob.
pub(crate) fn decoder<'a>(
    compression: Compression,
    blob: impl io::Read + 'a,
) -> io::Result<Box<dyn io::Read + 'a>> {
    let blob = io::BufReader::with_capacity(1 << 18, blob);
    Ok(match compression {
        Compression::Gzip => Box::new(flate2::bufread::GzDecoder::new(blob)),
        Compression::Zstd => Box::new(zstd::Decoder::with_buffer(blob)?),
        Compression::None => Box::new(blob),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use proptest::prelude::*;

    use super::*;

    const ALL: [Compression; 3] = [Compression::Gzip, Compression::Zstd, Compression::None];

    fn stream(compression: Compression, data: &[u8], chunk: usize) -> Vec<u8> {
        let mut framing = Framing::new(compression);
        let mut out = framing.start().to_vec();
        let mut before = Vec::new();
        for part in data.chunks(chunk) {
            let packed = pack(compression, part.to_vec(), &before).unwrap();
            framing.add(&packed);
            out.extend_from_slice(&packed.data);
            before = window(compression, part);
        }
        out.extend(framing.end());
        out
    }

    fn plain(compression: Compression, blob: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        decoder(compression, blob)
            .unwrap()
            .read_to_end(&mut out)
            .unwrap();
        out
    }

    #[test]
    fn incompressible_data_round_trips() {
        let mut state: u64 = 7;
        let data: Vec<u8> = (0..3 << 20)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        for compression in ALL {
            let blob = stream(compression, &data, chunk_size(compression));
            assert!(plain(compression, &blob) == data, "{compression:?}");
        }
    }

    #[test]
    fn a_chunk_refers_to_the_one_before() {
        let data: Vec<u8> = sha256(b"a").iter().copied().cycle().take(1000).collect();
        let alone = pack(Compression::Gzip, data.clone(), &[]).unwrap();
        let after = pack(Compression::Gzip, data.clone(), &data).unwrap();
        assert!(after.data.len() < alone.data.len());
    }

    #[test]
    fn an_empty_gzip_stream_is_valid() {
        let blob = stream(Compression::Gzip, &[], 1);
        assert_eq!(plain(Compression::Gzip, &blob), b"");
    }

    #[test]
    fn compressed_data_is_not_searched_for_matches() {
        let noise: Vec<u8> = (0..16_384_u32)
            .flat_map(|i| sha256(&i.to_le_bytes()))
            .collect();
        assert!(is_packed(&noise).unwrap());
        let text: Vec<u8> = (0..60_000_u32)
            .flat_map(|i| i.to_string().into_bytes())
            .collect();
        assert!(!is_packed(&text).unwrap());
    }

    proptest! {
        #[test]
        fn any_data_in_any_chunks_round_trips(
            data in proptest::collection::vec(0_u8..4, 1..20_000),
            chunk in 1_usize..9000,
        ) {
            for compression in ALL {
                prop_assert_eq!(&plain(compression, &stream(compression, &data, chunk)), &data);
            }
        }
    }
}
