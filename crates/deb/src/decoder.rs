//! Decompression, bounded and checked for completeness.

use std::io::{self, Read};

use liblzma::bufread::XzDecoder;
use liblzma::stream::{Stream, TELL_UNSUPPORTED_CHECK};

use crate::ar::Content;
use crate::error::{DebError, from_io};
use crate::limits::Limits;

/// How a member is compressed. Its name alone decides; content is never sniffed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all: `.tar`.
    None,
    /// `.tar.gz`; several gzip members in a row are one stream.
    Gzip,
    /// `.tar.xz`; exactly one xz stream.
    Xz,
    /// `.tar.lzma`, for data archives only.
    Lzma,
    /// `.tar.zst`; several frames in a row are one stream.
    Zstd,
}

impl Compression {
    /// The compression that a member name ends in: `ending` is what follows `.tar`.
    pub(crate) fn from_ending(ending: &str) -> Option<Self> {
        match ending {
            "" => Some(Self::None),
            ".gz" => Some(Self::Gzip),
            ".xz" => Some(Self::Xz),
            ".lzma" => Some(Self::Lzma),
            ".zst" => Some(Self::Zstd),
            _ => None,
        }
    }
}

enum Format<'a> {
    None(Content<'a>),
    Gzip(flate2::bufread::MultiGzDecoder<Content<'a>>),
    Xz(XzDecoder<Content<'a>>),
    Zstd(zstd::Decoder<'static, Content<'a>>),
}

/// What bounds one decoder.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Unpacked bytes.
    pub(crate) size: u64,
    /// Unpacked bytes per packed byte beyond `free_size`.
    pub(crate) ratio: u64,
    pub(crate) free_size: u64,
    pub(crate) memory: u64,
}

impl Bounds {
    pub(crate) const fn control(limits: &Limits) -> Self {
        Self {
            size: limits.max_control_size,
            ratio: limits.max_ratio,
            free_size: limits.max_control_size,
            memory: limits.max_decoder_memory,
        }
    }

    pub(crate) const fn data(limits: &Limits) -> Self {
        Self {
            size: limits.max_total_size,
            ratio: limits.max_ratio,
            free_size: limits.free_size,
            memory: limits.max_decoder_memory,
        }
    }
}

/// Reads the unpacked bytes of a member. The end of the stream is reported only when it is
/// complete and the member holds nothing more.
pub(crate) struct Decoder<'a> {
    format: Format<'a>,
    subject: &'a str,
    packed_size: u64,
    bounds: Bounds,
    unpacked: u64,
    done: bool,
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(
        content: Content<'a>,
        compression: Compression,
        subject: &'a str,
        bounds: Bounds,
    ) -> Result<Self, DebError> {
        let packed_size = content.left();
        if packed_size == 0 {
            return Err(DebError::invalid(subject, "the member is empty"));
        }
        let format = open_format(content, compression, bounds).map_err(|e| from_io(e, subject))?;
        Ok(Self {
            format,
            subject,
            packed_size,
            bounds,
            unpacked: 0,
            done: false,
        })
    }

    fn input(&mut self) -> &mut Content<'a> {
        match &mut self.format {
            Format::None(content) => content,
            Format::Gzip(decoder) => decoder.get_mut(),
            Format::Xz(decoder) => decoder.get_mut(),
            Format::Zstd(decoder) => decoder.get_mut(),
        }
    }

    fn check_end(&mut self) -> Result<(), DebError> {
        let left = self.input().left();
        if left > 0 {
            let reason = format!("{left} bytes follow the end of the compressed data");
            return Err(DebError::invalid(self.subject, reason));
        }
        Ok(())
    }

    fn check_bounds(&mut self) -> Result<(), DebError> {
        let Bounds {
            size,
            ratio,
            free_size,
            ..
        } = self.bounds;
        if self.unpacked > size {
            let reason = format!("unpacks to more than {size} bytes");
            return Err(DebError::invalid(self.subject, reason));
        }
        if self.unpacked > free_size {
            let packed = self.packed_size - self.input().left();
            if (self.unpacked - free_size) / ratio.max(1) > packed {
                let reason = format!("unpacks to more than {ratio} times its size");
                return Err(DebError::invalid(self.subject, reason));
            }
        }
        Ok(())
    }
}

fn open_format(
    content: Content<'_>,
    compression: Compression,
    bounds: Bounds,
) -> io::Result<Format<'_>> {
    Ok(match compression {
        Compression::None => Format::None(content),
        Compression::Gzip => Format::Gzip(flate2::bufread::MultiGzDecoder::new(content)),
        Compression::Xz => Format::Xz(XzDecoder::new_stream(
            content,
            Stream::new_stream_decoder(bounds.memory, TELL_UNSUPPORTED_CHECK)?,
        )),
        Compression::Lzma => Format::Xz(XzDecoder::new_stream(
            content,
            Stream::new_lzma_decoder(bounds.memory)?,
        )),
        Compression::Zstd => Format::Zstd(zstd::Decoder::with_buffer(content)?),
    })
}

impl Read for Decoder<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.done || buffer.is_empty() {
            return Ok(0);
        }
        let result = match &mut self.format {
            Format::None(content) => content.read(buffer),
            Format::Gzip(decoder) => decoder.read(buffer),
            Format::Xz(decoder) => decoder.read(buffer),
            Format::Zstd(decoder) => decoder.read(buffer),
        };
        let count = result.map_err(|e| from_io(e, self.subject).into_io())?;
        if count == 0 {
            self.check_end().map_err(DebError::into_io)?;
            self.done = true;
        }
        self.unpacked += count as u64;
        self.check_bounds().map_err(DebError::into_io)?;
        Ok(count)
    }
}
