//! Jobs, and the producers in them.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use trunkline_proto::id::{ConsumerAddress, ConsumerName, Incarnation, JobId, ProducerName, Weight};

use crate::{
    attachment::Handle,
    consumer::ConsumerBuilder,
    error::Error,
    link::{Cell, SendCell, Stream},
    scatter::Scatter,
    sender::Sender,
};

/// A job: a namespace for the producers and consumers of one run of one computation.
///
/// Made by [`Attachment::job`](crate::Attachment::job). Cheap to clone.
#[derive(Debug, Clone)]
pub struct Job {
    handle: Arc<Handle>,
    id: JobId,
}

impl Job {
    pub(crate) fn new(handle: Arc<Handle>, id: JobId) -> Self {
        Self { handle, id }
    }

    /// The job's name and run.
    #[must_use]
    pub fn id(&self) -> &JobId {
        &self.id
    }

    /// A producer of this job, with a life of its own: two producers of one name are told apart by their
    /// [`incarnation`](Producer::incarnation). Nothing is sent.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) when it is not a valid name.
    pub fn producer(&self, name: impl TryInto<ProducerName, Error: fmt::Display>) -> Result<Producer, Error> {
        let name = name.try_into().map_err(Error::invalid)?;
        let incarnation = draw_incarnation()?;
        let life = Life { name, incarnation, next_number: AtomicU64::new(1) };
        Ok(Producer {
            handle: Arc::clone(&self.handle),
            job: self.id.clone(),
            life: Arc::new(life),
            weight: Weight::default(),
        })
    }

    /// A consumer of this job on the local node, to be bound with [`ConsumerBuilder::bind`]. Nothing is sent.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) when it is not a valid name.
    pub fn consumer(&self, name: impl TryInto<ConsumerName, Error: fmt::Display>) -> Result<ConsumerBuilder, Error> {
        let consumer = name.try_into().map_err(Error::invalid)?;
        let address = ConsumerAddress { job: self.id.name.clone(), consumer, node: self.handle.node.clone() };
        Ok(ConsumerBuilder::new(Arc::clone(&self.handle), self.id.clone(), address, draw_incarnation()?))
    }
}

fn draw_incarnation() -> Result<Incarnation, Error> {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits).map_err(|error| Error::system("cannot draw random bits", error))?;
    Ok(Incarnation::from_bits(u128::from_ne_bytes(bits)))
}

/// One life of a named producer, which opens streams to consumers.
///
/// Made by [`Job::producer`]. Cheap to clone; clones are the same life.
#[derive(Debug, Clone)]
pub struct Producer {
    handle: Arc<Handle>,
    job: JobId,
    life: Arc<Life>,
    weight: Weight,
}

#[derive(Debug)]
struct Life {
    name: ProducerName,
    incarnation: Incarnation,
    next_number: AtomicU64,
}

impl Producer {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &ProducerName {
        &self.life.name
    }

    /// Its life: 128 random bits.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.life.incarnation
    }

    /// The weight of its job, 1 to 100, for the streams that are opened from now on; 1 unless set.
    ///
    /// Where streams of several jobs wait for one line, a job of weight 3 gets three times the bytes of a job of weight 1,
    /// whatever the number of their streams. Producers of one job are to say the same weight: the last one that comes to
    /// have something to send is believed.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) for a weight out of these bounds.
    pub fn weight(mut self, weight: u32) -> Result<Self, Error> {
        self.weight = weight.try_into().map_err(Error::invalid)?;
        Ok(self)
    }

    /// Opens a stream to a consumer of the same job: `job/consumer@node`.
    ///
    /// It waits until the consumer takes the stream. A consumer that is not bound yet is waited for, as long as its node
    /// allows (`open_timeout`, 30 s by default), so that parallel programs may start in any order.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) for an address that does not parse or names another job,
    /// [`Refused`](crate::ErrorKind::Refused) with a code (`not_bound`, `busy`, `run_mismatch`, `unknown_node`,
    /// `unreachable`, …), [`Draining`](crate::ErrorKind::Draining), [`NodeLost`](crate::ErrorKind::NodeLost),
    /// [`Closed`](crate::ErrorKind::Closed).
    ///
    /// # Cancel safety
    /// Dropping the future withdraws the open: the consumer, if it took the stream meanwhile, sees it cancelled.
    pub async fn open(&self, address: impl TryInto<ConsumerAddress, Error: fmt::Display>) -> Result<Sender, Error> {
        let mut sender = self.begin(self.address(address)?)?;
        sender.accepted().await?;
        Ok(sender)
    }

    /// Opens a stream to each of many consumers of the same job, all at once, and waits until all of them took theirs.
    /// The place of an address in the list is its index in the [`Scatter`].
    ///
    /// # Errors
    /// The first refusal, of those of [`Producer::open`]; it names its address, and the other opens are withdrawn. An
    /// address that is not valid is found before anything is sent.
    ///
    /// # Cancel safety
    /// Dropping the future withdraws all the opens: the consumers that took their stream meanwhile see it cancelled.
    pub async fn scatter<A>(&self, addresses: impl IntoIterator<Item = A>) -> Result<Scatter, Error>
    where
        A: TryInto<ConsumerAddress, Error: fmt::Display>,
    {
        let addresses: Vec<ConsumerAddress> =
            addresses.into_iter().map(|address| self.address(address)).collect::<Result<_, _>>()?;
        let senders: Vec<Sender> =
            addresses.into_iter().map(|address| self.begin(address)).collect::<Result<_, _>>()?;
        Scatter::accepted(senders).await
    }

    /// An address that a producer of this job may open to.
    fn address(&self, address: impl TryInto<ConsumerAddress, Error: fmt::Display>) -> Result<ConsumerAddress, Error> {
        let address = address.try_into().map_err(Error::invalid)?;
        if address.job != self.job.name {
            let job = &self.job.name;
            let text = format!("consumer {address}: it belongs to another job than the producer's, which is {job}");
            return Err(Error::invalid(text));
        }
        Ok(address)
    }

    /// Gives the link a stream to open. Dropping the sender withdraws it.
    fn begin(&self, address: ConsumerAddress) -> Result<Sender, Error> {
        let shared = &self.handle.shared;
        if shared.is_draining() {
            return Err(Error::draining(format!("consumer {address}")));
        }
        let Life { name, incarnation, next_number } = &*self.life;
        let number = next_number.fetch_add(1, Ordering::Relaxed);
        let stream = Stream::new(self.job.clone(), name.clone(), *incarnation, number, address, self.weight);
        let cell = Arc::new(SendCell::new(stream, Arc::clone(shared)));
        shared
            .ready
            .admit(Cell::Send(Arc::clone(&cell)))
            .map_err(|ended| Error::ended(format!("consumer {}", cell.stream.address), &ended))?;
        shared.counters.opens.increment();
        Ok(Sender::new(Arc::clone(&self.handle), cell))
    }
}
