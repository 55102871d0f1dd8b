//! The threads behind [`LayerEncoder`](crate::LayerEncoder).
//!
//! One thread reads content objects, writes the tar streams of all layers one after the other,
//! hashes them and cuts them into chunks; any number of threads compress chunks; the calling
//! thread puts the results in order, hashes and stores the blobs. A bounded queue between them
//! limits memory, and the order of the chunks is fixed before they are compressed, so the number
//! of threads changes nothing but the time. One huge layer is as fast as many small ones.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use apt_ostree_model::compose::Compression;
use apt_ostree_model::{ContentReader, Event, Reporter, Sha256Digest, Step};
use fn_error_context::context;
use libdeflater::Crc;
use openssl::sha::Sha256;
use tempfile::NamedTempFile;

use crate::cache::{BlobCache, BlobInfo};
use crate::compress::{Framing, Packed, Packer, chunk_size};
use crate::encode::Item;
use crate::shown;
use crate::tar::{Kind, TRAILER, padding};

const ZEROS: [u8; 512] = [0; 512];

/// What the threads need to know.
pub(crate) struct Job<'a> {
    pub(crate) content: &'a dyn ContentReader,
    pub(crate) cache: &'a BlobCache,
    pub(crate) compression: Compression,
    pub(crate) threads: usize,
}

/// A chunk to compress, and where the result goes.
struct Task {
    chunk: Vec<u8>,
    reply: SyncSender<io::Result<Packed>>,
}

/// What the storing thread gets, in order.
enum Piece {
    Begin { title: String },
    Chunk(Receiver<io::Result<Packed>>),
    End { diff_id: Sha256Digest, crc: Crc },
}

/// Encodes `sources` (title and entries of each layer) and gives each finished blob to `store`.
pub(crate) fn run<'s>(
    job: &Job<'_>,
    sources: impl Iterator<Item = (&'s str, Result<Vec<Item<'s>>>)> + Send,
    progress: &mut Progress<'_>,
    store: impl FnMut(usize, NamedTempFile, &BlobInfo) -> Result<()>,
) -> Result<()> {
    let (tasks, queue) = sync_channel(job.threads);
    let (pieces, ordered) = sync_channel(job.threads + 2);
    let queue = Mutex::new(queue);
    std::thread::scope(|scope| {
        for _ in 0..job.threads {
            scope.spawn(|| compress(job.compression, &queue));
        }
        let producer = scope.spawn(move || {
            let mut writer = TarWriter::new(job.compression, tasks, pieces);
            for (title, items) in sources {
                writer.write_layer(title, &items?, job.content)?;
            }
            Ok(())
        });
        let stored = collect(job, &ordered, progress, store);
        // A writer that waits for room stops when nobody takes its chunks.
        drop(ordered);
        let produced = producer
            .join()
            .map_err(|_| anyhow!("the thread that writes layers panicked"))?;
        // When storing failed, the writer merely noticed that nobody listens.
        stored?;
        produced
    })
}

/// Compresses chunks until there are no more.
fn compress(compression: Compression, queue: &Mutex<Receiver<Task>>) {
    let mut packer = Packer::new(compression);
    loop {
        let task = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(task) = task else {
            return;
        };
        let packed = match &mut packer {
            Ok(packer) => packer.pack(task.chunk),
            Err(error) => Err(io::Error::other(error.to_string())),
        };
        // Nobody waits for the result once an error has ended the work.
        let _unheard = task.reply.send(packed);
    }
}

/// Puts compressed chunks together. Ends quietly when the producer stops in the middle of a
/// layer: then the producer has the error.
fn collect(
    job: &Job<'_>,
    ordered: &Receiver<Piece>,
    progress: &mut Progress<'_>,
    mut store: impl FnMut(usize, NamedTempFile, &BlobInfo) -> Result<()>,
) -> Result<()> {
    let mut number = 0;
    let mut open: Option<BlobWriter> = None;
    while let Ok(piece) = ordered.recv() {
        match (piece, open.take()) {
            (Piece::Chunk(packed), Some(mut blob)) => {
                let packed = packed
                    .recv()
                    .context("a compressing thread ended early")??;
                blob.add(&packed)?;
                progress.add(packed.length);
                open = Some(blob);
            }
            (Piece::End { diff_id, crc }, Some(blob)) => {
                let (file, info) = blob.finish(diff_id, &crc)?;
                store(number, file, &info)?;
                number += 1;
            }
            (Piece::Begin { title }, _) => {
                progress.item = Some(title);
                open = Some(BlobWriter::new(job)?);
            }
            (_, None) => bail!("a chunk came outside of a layer"),
        }
    }
    Ok(())
}

/// A blob as it grows.
struct BlobWriter {
    file: NamedTempFile,
    framing: Framing,
    hasher: Sha256,
    size: u64,
    uncompressed_size: u64,
}

impl BlobWriter {
    fn new(job: &Job<'_>) -> Result<Self> {
        let framing = Framing::new(job.compression);
        let mut blob = Self {
            file: job.cache.temporary()?,
            hasher: Sha256::new(),
            size: 0,
            uncompressed_size: 0,
            framing,
        };
        blob.write(blob.framing.start())?;
        Ok(blob)
    }

    fn add(&mut self, packed: &Packed) -> Result<()> {
        self.uncompressed_size += packed.length as u64;
        self.write(&packed.data)
    }

    #[context("writing blob '{}'", self.file.path().display())]
    fn write(&mut self, data: &[u8]) -> Result<()> {
        self.file.write_all(data)?;
        self.hasher.update(data);
        self.size += data.len() as u64;
        Ok(())
    }

    fn finish(mut self, diff_id: Sha256Digest, crc: &Crc) -> Result<(NamedTempFile, BlobInfo)> {
        self.write(&self.framing.end(crc, self.uncompressed_size))?;
        let info = BlobInfo {
            digest: Sha256Digest::new(self.hasher.finish()),
            diff_id,
            size: self.size,
            uncompressed_size: self.uncompressed_size,
        };
        Ok((self.file, info))
    }
}

/// Writes tar streams as chunks.
struct TarWriter {
    compression: Compression,
    tasks: SyncSender<Task>,
    pieces: SyncSender<Piece>,
    chunk: Vec<u8>,
    hasher: Sha256,
    crc: Crc,
}

impl TarWriter {
    fn new(compression: Compression, tasks: SyncSender<Task>, pieces: SyncSender<Piece>) -> Self {
        Self {
            compression,
            tasks,
            pieces,
            chunk: Vec::new(),
            hasher: Sha256::new(),
            crc: Crc::new(),
        }
    }

    #[context("writing layer '{title}'")]
    fn write_layer(
        &mut self,
        title: &str,
        items: &[Item<'_>],
        content: &dyn ContentReader,
    ) -> Result<()> {
        self.hasher = Sha256::new();
        self.crc = Crc::new();
        self.send(Piece::Begin {
            title: title.to_owned(),
        })?;
        let mut header = Vec::new();
        for item in items {
            header.clear();
            item.entry.write_header(&mut header);
            self.write(&header)?;
            if let (Kind::File(size), Some(checksum)) = (item.entry.kind, &item.content) {
                self.copy(content, checksum, size)
                    .with_context(|| format!("reading '{}'", shown(item.entry.path)))?;
                self.write(&ZEROS[..padding(size)])?;
            }
        }
        self.write(&TRAILER)?;
        self.flush()?;
        let (hasher, crc) = (
            std::mem::take(&mut self.hasher),
            std::mem::take(&mut self.crc),
        );
        self.send(Piece::End {
            diff_id: Sha256Digest::new(hasher.finish()),
            crc,
        })
    }

    /// Copies a content object, which must have `size` bytes.
    fn copy(
        &mut self,
        content: &dyn ContentReader,
        checksum: &Sha256Digest,
        size: u64,
    ) -> Result<()> {
        let mut file = content
            .open(checksum)
            .with_context(|| format!("opening content object {checksum}"))?;
        let found = file.metadata()?.len();
        if found != size {
            bail!("content object {checksum} has {found} bytes, not {size}");
        }
        let mut left = size;
        while left > 0 {
            let room = self.room()? as u64;
            let wanted = left.min(room);
            self.fill(&mut file, wanted)
                .with_context(|| format!("content object {checksum} changed while being read"))?;
            left -= wanted;
        }
        Ok(())
    }

    /// Reads exactly `wanted` bytes into the chunk.
    fn fill(&mut self, file: &mut File, wanted: u64) -> io::Result<()> {
        let read = file.take(wanted).read_to_end(&mut self.chunk)?;
        if read as u64 != wanted {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    fn write(&mut self, mut data: &[u8]) -> Result<()> {
        while !data.is_empty() {
            let (now, later) = data.split_at(data.len().min(self.room()?));
            self.chunk.extend_from_slice(now);
            data = later;
        }
        Ok(())
    }

    /// How much fits into the chunk; at least one byte.
    fn room(&mut self) -> Result<usize> {
        let size = chunk_size(self.compression);
        if self.chunk.len() == size {
            self.flush()?;
        }
        if self.chunk.capacity() < size {
            self.chunk.reserve_exact(size - self.chunk.len());
        }
        Ok(size - self.chunk.len())
    }

    /// Hands the chunk over to be compressed.
    fn flush(&mut self) -> Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::take(&mut self.chunk);
        self.hasher.update(&chunk);
        self.crc.update(&chunk);
        let (reply, result) = sync_channel(1);
        self.send(Piece::Chunk(result))?;
        self.tasks
            .send(Task { chunk, reply })
            .map_err(|_| anyhow!("the compressing threads ended early"))
    }

    fn send(&self, piece: Piece) -> Result<()> {
        self.pieces
            .send(piece)
            .map_err(|_| anyhow!("storing the layer ended early"))
    }
}

/// Tells a reporter how far the work is, a few times a second.
pub(crate) struct Progress<'a> {
    reporter: &'a dyn Reporter,
    done: u64,
    total: u64,
    item: Option<String>,
    told: Option<Instant>,
}

impl<'a> Progress<'a> {
    const INTERVAL: Duration = Duration::from_millis(200);

    pub(crate) fn new(reporter: &'a dyn Reporter, total: u64) -> Self {
        Self {
            reporter,
            done: 0,
            total,
            item: None,
            told: None,
        }
    }

    fn add(&mut self, bytes: usize) {
        self.done += bytes as u64;
        if self
            .told
            .is_some_and(|told| told.elapsed() < Self::INTERVAL)
        {
            return;
        }
        self.told = Some(Instant::now());
        self.reporter.report(Event::StepProgress {
            step: Step::Encode,
            // Headers are not part of the total.
            done: self.done.min(self.total),
            total: self.total,
            bytes: true,
            item: self.item.clone(),
        });
    }
}
