//! Frames on a TCP connection: four bytes that give a length, most significant first, then so many bytes.
//!
//! What a frame claims is believed up to the bound that the reader sets, and not one byte is set aside beyond it. A
//! sealed envelope is inside; whether it opens is the node's to find out. Used by the connections.

use std::io;

use bytes::BufMut;
use tokio::io::{AsyncRead, AsyncReadExt};

const LENGTH: usize = 4;

/// A frame as it goes over the wire.
pub(super) fn encode(data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).expect("no frame is that long");
    [&length.to_be_bytes(), data].concat()
}

/// Why there is no next frame.
#[derive(Debug)]
pub(super) enum Broken {
    /// The frame claims more than it may have, or ends before its end.
    Length,
    /// The connection failed.
    Failed,
}

/// What was read of a connection and not taken yet: never more than one frame.
#[derive(Debug, Default)]
pub(super) struct Reader {
    buffer: Vec<u8>,
}

impl Reader {
    /// The next frame, of at most `at_most` bytes; `None` at the end. Nothing is lost if this is dropped meanwhile.
    pub(super) async fn next(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        at_most: usize,
    ) -> Result<Option<Vec<u8>>, Broken> {
        loop {
            let missing = self.missing(at_most)?;
            if missing == 0 {
                let frame = self.buffer.split_off(LENGTH);
                self.buffer.clear();
                return Ok(Some(frame));
            }
            self.buffer.reserve(missing);
            match from.read_buf(&mut (&mut self.buffer).limit(missing)).await {
                Ok(0) if self.buffer.is_empty() => return Ok(None),
                Ok(0) => return Err(Broken::Length),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(Broken::Failed),
            }
        }
    }

    /// How many bytes are to be read next; 0: a frame is whole.
    fn missing(&self, at_most: usize) -> Result<usize, Broken> {
        let Some((length, data)) = self.buffer.split_first_chunk::<LENGTH>() else {
            return Ok(LENGTH - self.buffer.len());
        };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length > at_most { Err(Broken::Length) } else { Ok(length - data.len()) }
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, RngExt, SeedableRng};

    use super::*;

    const AT_MOST: usize = 300;

    /// All frames of `bytes`, which come in pieces of `piece` bytes, and how it ended.
    async fn read(bytes: &[u8], piece: usize) -> (Vec<Vec<u8>>, Result<(), Broken>) {
        let (mut reader, mut frames) = (Reader::default(), Vec::new());
        let mut from = tokio_test_pieces(bytes, piece);
        loop {
            match reader.next(&mut from, AT_MOST).await {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => return (frames, Ok(())),
                Err(broken) => return (frames, Err(broken)),
            }
            assert!(reader.buffer.capacity() <= LENGTH + AT_MOST, "{}", reader.buffer.capacity());
        }
    }

    /// A connection on which `bytes` come in pieces.
    fn tokio_test_pieces(bytes: &[u8], piece: usize) -> impl AsyncRead + Unpin {
        let (mut to, from) = tokio::io::duplex(piece);
        let bytes = bytes.to_vec();
        tokio::spawn(async move {
            // Whoever reads may have seen enough.
            let _ = tokio::io::AsyncWriteExt::write_all(&mut to, &bytes).await;
        });
        from
    }

    #[tokio::test]
    async fn every_length_passes_whole_and_a_longer_one_does_not() {
        for length in 0..AT_MOST + 3 {
            let frame = vec![7; length];
            let (frames, end) = read(&[encode(&frame), encode(b"next")].concat(), 1 + length % 5).await;
            if length <= AT_MOST {
                assert_eq!(frames, [frame, b"next".to_vec()], "{length}");
                end.unwrap();
            } else {
                assert!(frames.is_empty() && matches!(end, Err(Broken::Length)), "{length}");
            }
        }
    }

    #[tokio::test]
    async fn a_frame_that_is_cut_anywhere_is_none() {
        let bytes = encode(b"whole");
        for cut in 0..bytes.len() {
            let (frames, end) = read(&bytes[..cut], 3).await;
            assert!(frames.is_empty(), "{cut}");
            assert_eq!(end.is_ok(), cut == 0, "{cut}");
        }
    }

    #[tokio::test]
    async fn what_a_frame_claims_is_not_set_aside() {
        for claim in [AT_MOST as u32 + 1, 1 << 16, 1 << 31, u32::MAX] {
            let mut reader = Reader::default();
            let bytes = [&claim.to_be_bytes()[..], &[0; 100]].concat();
            assert!(matches!(reader.next(&mut &bytes[..], AT_MOST).await, Err(Broken::Length)), "{claim}");
            assert!(reader.buffer.capacity() <= 64, "{}", reader.buffer.capacity());
        }
    }

    #[tokio::test]
    async fn random_bytes_end_in_one_way_or_another() {
        let mut rng = StdRng::seed_from_u64(1);
        for _ in 0..2000 {
            let mut bytes = vec![0; rng.random_range(0..600)];
            rng.fill_bytes(&mut bytes);
            // Half of them begin as a frame that may be.
            if bytes.len() > 3 && rng.random() {
                bytes[..2].fill(0);
                bytes[2] &= 1;
            }
            let (frames, _) = read(&bytes, rng.random_range(1..40)).await;
            assert!(frames.iter().map(|frame| LENGTH + frame.len()).sum::<usize>() <= bytes.len());
        }
    }
}
