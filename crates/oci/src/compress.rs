//! Compression in chunks of a fixed size, each on any thread.
//!
//! The result depends on the data alone. With gzip the chunks make one single stream (some readers
//! stop after the first member): each is a run of deflate blocks that ends on a byte boundary. With
//! zstd each chunk is a frame.

use std::io;

use apt_ostree_model::compose::Compression;
use libdeflater::{CompressionLvl, Compressor, Crc};
use openssl::sha::sha256;

use crate::deflate;

/// As small as level 6 of the usual encoder, in half the time.
const GZIP_LEVEL: i32 = 4;
/// For what can't be compressed: finds that out with little searching.
const GZIP_LEVEL_PACKED: i32 = 1;
const ZSTD_LEVEL: i32 = 3;

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

/// A compressed chunk.
#[derive(Debug)]
pub(crate) struct Packed {
    pub(crate) data: Vec<u8>,
    /// Length of the input.
    pub(crate) length: usize,
}

/// Compresses chunks; one for each thread, because encoders are large.
pub(crate) struct Packer {
    compression: Compression,
    usual: Compressor,
    packed: Compressor,
}

impl Packer {
    pub(crate) fn new(compression: Compression) -> io::Result<Self> {
        let encoder = |level| {
            CompressionLvl::new(level)
                .map(Compressor::new)
                .map_err(|_| io::Error::other("no such compression level"))
        };
        Ok(Self {
            compression,
            usual: encoder(GZIP_LEVEL)?,
            packed: encoder(GZIP_LEVEL_PACKED)?,
        })
    }

    /// Compresses one chunk.
    pub(crate) fn pack(&mut self, chunk: Vec<u8>) -> io::Result<Packed> {
        let length = chunk.len();
        let data = match self.compression {
            Compression::Gzip => self.deflate(&chunk)?,
            Compression::Zstd => zstd::bulk::compress(&chunk, ZSTD_LEVEL)?,
            Compression::None => chunk,
        };
        Ok(Packed { data, length })
    }

    /// Deflate blocks, of which none is the last.
    fn deflate(&mut self, chunk: &[u8]) -> io::Result<Vec<u8>> {
        let encoder = if is_packed(chunk, &mut self.packed)? {
            &mut self.packed
        } else {
            &mut self.usual
        };
        let mut out = deflate(encoder, chunk)?;
        deflate::open_end(&mut out).map_err(io::Error::other)?;
        Ok(out)
    }
}

/// A complete deflate stream, with room for a few more bytes.
fn deflate(encoder: &mut Compressor, data: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = vec![0; encoder.deflate_compress_bound(data.len()) + 8];
    let length = encoder
        .deflate_compress(data, &mut out)
        .map_err(io::Error::other)?;
    out.truncate(length);
    Ok(out)
}

/// Bytes in each of the [`SAMPLES`] of a chunk.
const SAMPLE: usize = 4 << 10;
const SAMPLES: usize = 8;

/// Whether samples from all over the chunk say that it is compressed data already, such as kernel
/// modules, pictures and fonts.
fn is_packed(chunk: &[u8], encoder: &mut Compressor) -> io::Result<bool> {
    if chunk.len() < 4 * SAMPLE * SAMPLES {
        return Ok(false);
    }
    let step = chunk.len() / SAMPLES;
    let samples: Vec<u8> = chunk
        .chunks_exact(step)
        .flat_map(|part| part[..SAMPLE].iter().copied())
        .collect();
    let out = deflate(encoder, &samples)?;
    Ok(out.len() * 50 > samples.len() * 49)
}

/// What is around the chunks of one stream.
#[derive(Debug)]
pub(crate) struct Framing {
    compression: Compression,
}

impl Framing {
    pub(crate) const fn new(compression: Compression) -> Self {
        Self { compression }
    }

    /// What comes before the chunks.
    pub(crate) const fn start(&self) -> &'static [u8] {
        match self.compression {
            Compression::Gzip => &GZIP_HEADER,
            Compression::Zstd | Compression::None => &[],
        }
    }

    /// What comes after the chunks of data that has this checksum and length.
    pub(crate) fn end(&self, checksum: &Crc, length: u64) -> Vec<u8> {
        let mut out = Vec::new();
        if self.compression == Compression::Gzip {
            out.extend_from_slice(&DEFLATE_END);
            out.extend_from_slice(&checksum.sum().to_le_bytes());
            // The format keeps the length modulo 2^32.
            out.extend_from_slice(&(length as u32).to_le_bytes());
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
    let packed = Packer::new(compression)?.pack(sample)?;
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
        let (framing, mut crc) = (Framing::new(compression), Crc::new());
        let mut packer = Packer::new(compression).unwrap();
        let mut out = framing.start().to_vec();
        for part in data.chunks(chunk) {
            crc.update(part);
            out.extend(packer.pack(part.to_vec()).unwrap().data);
        }
        out.extend(framing.end(&crc, data.len() as u64));
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
    fn an_empty_gzip_stream_is_valid() {
        let blob = stream(Compression::Gzip, &[], 1);
        assert_eq!(plain(Compression::Gzip, &blob), b"");
    }

    #[test]
    fn compressed_data_is_not_searched_for_matches() {
        let noise: Vec<u8> = (0..16_384_u32)
            .flat_map(|i| sha256(&i.to_le_bytes()))
            .collect();
        let mut encoder = Compressor::new(CompressionLvl::new(GZIP_LEVEL_PACKED).unwrap());
        assert!(is_packed(&noise, &mut encoder).unwrap());
        let text: Vec<u8> = (0..60_000_u32)
            .flat_map(|i| i.to_string().into_bytes())
            .collect();
        assert!(!is_packed(&text, &mut encoder).unwrap());
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
