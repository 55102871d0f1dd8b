//! A layer on its way: every byte that comes is counted and hashed, unpacked, and hashed again.

use std::io::{self, BufRead, BufReader, Read};

use anyhow::{Context as _, Result};
use apt_ostree_model::{Event, Reporter, Sha256Digest, Step};
use flate2::bufread::MultiGzDecoder;
use openssl::sha::Sha256;

use super::proxy::{Pipe, Waited};
use super::remote::RemoteLayer;
use super::{malformed, rejected};

/// Bytes of an unpacked layer.
const MAX_UNPACKED: u64 = 64 << 30;
/// Bytes to which a layer may unpack whatever its size is.
const FREE_UNPACKED: u64 = 1 << 30;
/// Bytes that one byte of a larger layer may unpack to.
const MAX_RATIO: u64 = 200;
/// A zstd decoder needs no more memory than 2 to the power of this.
const ZSTD_WINDOW: u32 = 27;
const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Where to tell how far a download is.
#[derive(Clone, Copy)]
pub struct Progress<'r> {
    /// Who is told.
    pub reporter: &'r dyn Reporter,
    /// Bytes of the layers before this one.
    pub before: u64,
    /// Bytes of all layers.
    pub total: u64,
}

impl std::fmt::Debug for Progress<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Progress")
            .field("before", &self.before)
            .field("total", &self.total)
            .finish_non_exhaustive()
    }
}

/// The tar stream of a layer, which is compared with its digests at the end.
#[derive(Debug)]
pub struct LayerStream<'p> {
    unpacked: Hashed<Decoder<BufReader<Hashed<Told<'p>>>>>,
    layer: RemoteLayer,
    /// Whether it comes without compression, whatever the manifest says.
    plain: bool,
}

impl<'p> LayerStream<'p> {
    pub(crate) fn new(
        pipe: Pipe<'p>,
        layer: &RemoteLayer,
        plain: bool,
        progress: Progress<'p>,
    ) -> Result<Self> {
        let told = Told {
            pipe,
            progress,
            done: 0,
        };
        // What is too long has a wrong digest; there is no reason to read it all.
        let limit = if plain { MAX_UNPACKED } else { layer.size };
        let mut packed = BufReader::with_capacity(64 << 10, Hashed::new(told, limit));
        let start = match packed.fill_buf() {
            Ok(start) => &start[..start.len().min(4)],
            // What is wrong with it shows again when it is read.
            Err(error) => match waited(&error) {
                Some(kinded) => return Err(kinded).context("fetching a layer"),
                None => &[],
            },
        };
        let (gzip, zstd) = (start.starts_with(&GZIP), start == ZSTD);
        let decoder = if gzip {
            Decoder::Gzip(Box::new(MultiGzDecoder::new(packed)))
        } else if zstd {
            let mut decoder = zstd::Decoder::with_buffer(packed)?;
            decoder.window_log_max(ZSTD_WINDOW)?;
            Decoder::Zstd(decoder)
        } else {
            Decoder::Plain(packed)
        };
        let ratio = layer.size.saturating_mul(MAX_RATIO);
        let limit = if plain { MAX_UNPACKED } else { ratio };
        let limit = limit.clamp(FREE_UNPACKED, MAX_UNPACKED);
        Ok(Self {
            unpacked: Hashed::new(decoder, limit),
            layer: layer.clone(),
            plain,
        })
    }

    /// Reads the rest and compares all of it with its digests. `result` is what reading it came
    /// to: when the layer is damaged, that is the better error.
    ///
    /// # Errors
    /// The error of `result`; [`apt_ostree_model::ErrorKind::Verification`] when a digest is
    /// wrong.
    pub fn finish<T>(mut self, result: Result<T>) -> Result<T> {
        let name = self.layer.digest.to_oci();
        let context = || format!("reading layer {name}");
        if let Some(error) = interrupted(result.as_ref().err()) {
            return Err(error).with_context(context);
        }
        let rest = match &result {
            Ok(_) => io::copy(&mut self.unpacked, &mut io::sink()).map(drop),
            Err(_) => Ok(()),
        };
        let (unpacked, diff_id, _) = self.unpacked.finish();
        let mut packed = unpacked.into_inner();
        let drained = io::copy(&mut packed, &mut io::sink());
        let (told, digest, size) = packed.into_inner().finish();
        if let Err(error) = &drained
            && let Some(kinded) = waited(error)
        {
            return Err(kinded).with_context(context);
        }
        let says = told.pipe.finish();
        let wrong = |what: &str, found: Sha256Digest, wanted: Sha256Digest| {
            let message = format!(
                "layer {name} is damaged: {what} is {}, not {}",
                found.to_oci(),
                wanted.to_oci()
            );
            Err(rejected(message)
                .with_hint("tell whoever serves the image, and try again")
                .into())
        };
        if !self.plain
            && (drained.is_err() || size != self.layer.size || digest != self.layer.digest)
        {
            return wrong("its digest", digest, self.layer.digest);
        }
        let value = result.with_context(context)?;
        rest.map_err(|e| malformed(e.to_string()))
            .with_context(context)?;
        if diff_id != self.layer.diff_id {
            return wrong("the digest of what is in it", diff_id, self.layer.diff_id);
        }
        // The content is right. For unpacked layers skopeo expects the packed size.
        if !self.plain {
            says.with_context(context)?;
        }
        Ok(value)
    }
}

impl Read for LayerStream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.unpacked.read(buffer)
    }
}

/// The reason for which a download ended early, when that is why reading it failed.
fn interrupted(error: Option<&anyhow::Error>) -> Option<anyhow::Error> {
    let io = error?.chain().find_map(|e| e.downcast_ref::<io::Error>())?;
    waited(io).map(Into::into)
}

fn waited(error: &io::Error) -> Option<apt_ostree_model::Kinded> {
    let inner = error.get_ref()?;
    inner.downcast_ref::<Waited>().map(|w| w.0.clone())
}

enum Decoder<R: BufRead> {
    Plain(R),
    Gzip(Box<MultiGzDecoder<R>>),
    Zstd(zstd::Decoder<'static, R>),
}

impl<R: BufRead> Decoder<R> {
    fn into_inner(self) -> R {
        match self {
            Self::Plain(reader) => reader,
            Self::Gzip(decoder) => decoder.into_inner(),
            Self::Zstd(decoder) => decoder.finish(),
        }
    }
}

impl<R: BufRead> std::fmt::Debug for Decoder<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain",
            Self::Gzip(_) => "Gzip",
            Self::Zstd(_) => "Zstd",
        })
    }
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(reader) => reader.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

/// Computes the digest of all that is read, and refuses more than a limit.
struct Hashed<R> {
    inner: R,
    hasher: Sha256,
    count: u64,
    limit: u64,
}

impl<R> Hashed<R> {
    fn new(inner: R, limit: u64) -> Self {
        Self {
            inner,
            hasher: Sha256::new(),
            count: 0,
            limit,
        }
    }

    fn finish(self) -> (R, Sha256Digest, u64) {
        let digest = Sha256Digest::new(self.hasher.finish());
        (self.inner, digest, self.count)
    }
}

impl<R: std::fmt::Debug> std::fmt::Debug for Hashed<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hashed")
            .field("inner", &self.inner)
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count += read as u64;
        if self.count > self.limit {
            let limit = self.limit;
            return Err(io::Error::other(format!("it has more than {limit} bytes")));
        }
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}

/// Tells how far a download is.
#[derive(Debug)]
struct Told<'p> {
    pipe: Pipe<'p>,
    progress: Progress<'p>,
    done: u64,
}

impl Read for Told<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.pipe.read(buffer)?;
        self.done += read as u64;
        self.progress.reporter.report(Event::StepProgress {
            step: Step::Pull,
            done: self.progress.before + self.done,
            total: self.progress.total,
            bytes: true,
            item: None,
        });
        Ok(read)
    }
}
