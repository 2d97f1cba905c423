//! Nexmark's streams: people register, open auctions and bid.
//!
//! Of every 50 events, one is a person, three are auctions and 46 are bids. An event's number gives its time; a stream's
//! row `n` is the `n`-th event of its kind. Ids are consecutive from 1000. Half of the bids go to the hot auction, one in
//! each hundred, three quarters come from the hot bidder, and three quarters of the auctions are the hot seller's; the
//! others are spread over the last 100 auctions and the last 1000 people, a few of whom are yet to come.

use std::{fmt::Write, sync::Arc};

use arrow::array::{ArrayRef, Int64Array, StringViewBuilder, TimestampMicrosecondArray};
use millrace_crds::{NexmarkGenerator, NexmarkStream};

use super::{Random, Values};

const EVENTS: u64 = 50;
const PERSONS: u64 = 1;
const AUCTIONS: u64 = 3;
const BIDS: u64 = EVENTS - PERSONS - AUCTIONS;

/// 2015-07-15T00:00:00Z.
const BASE_TIME_MICROS: i64 = 1_436_918_400_000_000;
const FIRST_ID: u64 = 1000;
const FIRST_CATEGORY: u64 = 10;
const CATEGORIES: u64 = 5;
/// Of so many ids in a row one is hot.
const HOT_STRIDE: u64 = 100;
const ACTIVE_PEOPLE: u64 = 1000;
const AUCTIONS_IN_FLIGHT: u64 = 100;
/// By how much a reference may run ahead of the ids that are there.
const ID_LEAD: u64 = 10;

const FIRST_NAMES: [&str; 11] =
    ["Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate", "Julie", "Sarah", "Deiter", "Walter"];
const LAST_NAMES: [&str; 9] = ["Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton", "Smith", "Jones", "Noris"];
const CITIES: [&str; 10] =
    ["Phoenix", "Los Angeles", "San Francisco", "Boise", "Portland", "Bend", "Redmond", "Seattle", "Kent", "Cheyenne"];
const STATES: [&str; 6] = ["AZ", "CA", "ID", "OR", "WA", "WY"];
const HOT_CHANNELS: [&str; 4] = ["Google", "Facebook", "Baidu", "Apple"];
const CHANNELS: u64 = 10_000;
/// How many bytes a person, an auction and a bid have on average, and each number in them.
const PERSON_BYTES: u64 = 200;
const AUCTION_BYTES: u64 = 500;
const BID_BYTES: u64 = 100;
const NUMBER_BYTES: u64 = 8;

/// The column of this name.
pub(super) fn column(spec: &NexmarkGenerator, seed: u64, name: &str) -> Option<Box<dyn Values>> {
    let kind = match (spec.stream, name) {
        (NexmarkStream::Person | NexmarkStream::Auction | NexmarkStream::Bid, "date_time") => Kind::DateTime,
        (NexmarkStream::Person, "id") => Kind::Number(person_id),
        (NexmarkStream::Person, "name") => Kind::Text(person_name),
        (NexmarkStream::Person, "email_address") => Kind::Text(email_address),
        (NexmarkStream::Person, "credit_card") => Kind::Text(credit_card),
        (NexmarkStream::Person, "city") => Kind::Text(city),
        (NexmarkStream::Person, "state") => Kind::Text(state),
        (NexmarkStream::Person, "extra") => Kind::Text(person_extra),
        (NexmarkStream::Auction, "id") => Kind::Number(|event| event.last_auction() + FIRST_ID),
        (NexmarkStream::Auction, "item_name") => Kind::Text(item_name),
        (NexmarkStream::Auction, "description") => Kind::Text(description),
        (NexmarkStream::Auction, "initial_bid") => Kind::Number(|event| event.price(22)),
        (NexmarkStream::Auction, "reserve") => Kind::Number(|event| event.price(22) + event.price(23)),
        (NexmarkStream::Auction, "expires") => Kind::Expires,
        (NexmarkStream::Auction, "seller") => Kind::Number(seller),
        (NexmarkStream::Auction, "category") => {
            Kind::Number(|event| FIRST_CATEGORY + event.random(26).below(CATEGORIES))
        }
        (NexmarkStream::Auction, "extra") => Kind::Text(auction_extra),
        (NexmarkStream::Bid, "auction") => Kind::Number(bid_auction),
        (NexmarkStream::Bid, "bidder") => Kind::Number(bidder),
        (NexmarkStream::Bid, "price") => Kind::Number(|event| event.price(32)),
        (NexmarkStream::Bid, "channel") => Kind::Text(channel),
        (NexmarkStream::Bid, "url") => Kind::Text(url),
        (NexmarkStream::Bid, "extra") => Kind::Text(|event, out| filling(event, BID_BYTES, 4 * NUMBER_BYTES, out)),
        _ => return None,
    };
    let events_per_second = i64::from(spec.events_per_second.max(1));
    Some(Box::new(Column { stream: spec.stream, seed, events_per_second, kind }))
}

struct Column {
    stream: NexmarkStream,
    seed: u64,
    events_per_second: i64,
    kind: Kind,
}

enum Kind {
    DateTime,
    Expires,
    Number(fn(&Event) -> u64),
    Text(fn(&Event, &mut String)),
}

/// One event, by its number among all of the three kinds.
struct Event {
    seed: u64,
    number: u64,
}

impl Column {
    fn event(&self, row: u64) -> Event {
        let number = match self.stream {
            // One in each round, its first.
            NexmarkStream::Person => row.saturating_mul(EVENTS),
            NexmarkStream::Auction => (row / AUCTIONS).saturating_mul(EVENTS) + PERSONS + row % AUCTIONS,
            NexmarkStream::Bid => (row / BIDS).saturating_mul(EVENTS) + PERSONS + AUCTIONS + row % BIDS,
        };
        Event { seed: self.seed, number }
    }

    fn micros(&self, number: u64) -> i64 {
        let since = i128::from(number) * 1_000_000 / i128::from(self.events_per_second);
        BASE_TIME_MICROS.saturating_add(i64::try_from(since).unwrap_or(i64::MAX))
    }

    /// When an auction ends: within twice the time that as many auctions take as are open at once.
    fn expires(&self, event: &Event) -> i64 {
        let opened = self.micros(event.number);
        let horizon = self.micros(event.number + AUCTIONS_IN_FLIGHT * EVENTS / AUCTIONS) - opened;
        let millis = 1 + event.random(24).below((horizon as u64 * 2 / 1000).max(1));
        opened + millis as i64 * 1000
    }
}

impl Values for Column {
    fn values(&self, rows: &[u64]) -> ArrayRef {
        let events = rows.iter().map(|row| self.event(*row));
        let moments = |values: TimestampMicrosecondArray| Arc::new(values.with_timezone("UTC"));
        match &self.kind {
            Kind::DateTime => moments(events.map(|event| self.micros(event.number)).collect::<Vec<_>>().into()),
            Kind::Expires => moments(events.map(|event| self.expires(&event)).collect::<Vec<_>>().into()),
            Kind::Number(number) => Arc::new(Int64Array::from_iter_values(events.map(|event| number(&event) as i64))),
            Kind::Text(text) => {
                let mut values = StringViewBuilder::with_capacity(rows.len());
                let mut value = String::new();
                for event in events {
                    value.clear();
                    text(&event, &mut value);
                    values.append_value(&value);
                }
                Arc::new(values.finish())
            }
        }
    }
}

impl Event {
    fn random(&self, purpose: u64) -> Random {
        Random::new(self.seed, purpose, self.number)
    }

    /// The number of the last person before, or at, this event.
    fn last_person(&self) -> u64 {
        self.number / EVENTS
    }

    /// The number of the last auction before, or at, this event.
    fn last_auction(&self) -> u64 {
        let (round, offset) = (self.number / EVENTS, self.number % EVENTS);
        if offset < PERSONS {
            return (round * AUCTIONS).saturating_sub(1);
        }
        round * AUCTIONS + (offset - PERSONS).min(AUCTIONS - 1)
    }

    /// An active person, or one that is soon to come.
    fn some_person(&self, random: &mut Random) -> u64 {
        let people = self.last_person() + 1;
        let active = people.min(ACTIVE_PEOPLE);
        people - active + random.below(active + ID_LEAD)
    }

    /// Cents, the most of them few.
    fn price(&self, purpose: u64) -> u64 {
        (10_f64.powf(self.random(purpose).unit() * 6.0) * 100.0).round() as u64
    }
}

impl Random {
    /// So many letters.
    fn letters(&mut self, length: u64, out: &mut String) {
        out.extend((0..length).map(|_| char::from(b'a' + self.below(26) as u8)));
    }

    /// Letters and blanks, `length` or fewer of them, but not none.
    fn words(&mut self, length: u64, out: &mut String) {
        let length = 3.max(self.below(length));
        for _ in 0..length {
            let letter = self.below(13 * 26);
            out.push(if letter.is_multiple_of(13) { ' ' } else { char::from(b'a' + (letter % 26) as u8) });
        }
    }
}

fn pick(choices: &[&str], event: &Event, purpose: u64, out: &mut String) {
    out.push_str(choices[event.random(purpose).below(choices.len() as u64) as usize]);
}

/// Text that brings a row of `has` bytes to the size that it has on average, give or take a fifth of what it lacks.
fn filling(event: &Event, average: u64, has: u64, out: &mut String) {
    let mut random = event.random(99);
    let lacks = average.saturating_sub(has);
    let fifth = (lacks + 2) / 5;
    let length = lacks - fifth + random.below((2 * fifth).max(1));
    random.letters(length, out);
}

/// How many bytes these columns of an event have.
fn bytes(event: &Event, columns: &[fn(&Event, &mut String)]) -> u64 {
    let mut text = String::new();
    columns.iter().for_each(|column| column(event, &mut text));
    text.len() as u64
}

fn person_extra(event: &Event, out: &mut String) {
    let has = NUMBER_BYTES + bytes(event, &[person_name, email_address, credit_card, city, state]);
    filling(event, PERSON_BYTES, has, out);
}

fn auction_extra(event: &Event, out: &mut String) {
    filling(event, AUCTION_BYTES, 6 * NUMBER_BYTES + bytes(event, &[item_name, description]), out);
}

fn city(event: &Event, out: &mut String) {
    pick(&CITIES, event, 13, out);
}

fn state(event: &Event, out: &mut String) {
    pick(&STATES, event, 14, out);
}

fn item_name(event: &Event, out: &mut String) {
    event.random(20).words(20, out);
}

fn description(event: &Event, out: &mut String) {
    event.random(21).words(100, out);
}

fn person_id(event: &Event) -> u64 {
    event.last_person() + FIRST_ID
}

fn person_name(event: &Event, out: &mut String) {
    pick(&FIRST_NAMES, event, 10, out);
    out.push(' ');
    pick(&LAST_NAMES, event, 11, out);
}

fn email_address(event: &Event, out: &mut String) {
    let mut random = event.random(12);
    let letters = |random: &mut Random, most: u64, out: &mut String| {
        let length = 3 + random.below(most - 3);
        random.letters(length, out);
    };
    letters(&mut random, 7, out);
    out.push('@');
    letters(&mut random, 5, out);
    out.push_str(".com");
}

fn credit_card(event: &Event, out: &mut String) {
    let mut random = event.random(15);
    for group in 0..4 {
        let blank = if group > 0 { " " } else { "" };
        // Writing to a string cannot fail.
        let _ = write!(out, "{blank}{:04}", random.below(10_000));
    }
}

fn seller(event: &Event) -> u64 {
    let mut random = event.random(25);
    let person = if random.below(4) > 0 {
        event.last_person() / HOT_STRIDE * HOT_STRIDE
    } else {
        event.some_person(&mut random)
    };
    person + FIRST_ID
}

fn bid_auction(event: &Event) -> u64 {
    let mut random = event.random(30);
    let last = event.last_auction();
    let auction = if random.below(2) > 0 {
        last / HOT_STRIDE * HOT_STRIDE
    } else {
        let first = last.saturating_sub(AUCTIONS_IN_FLIGHT);
        first + random.below(last - first + 1 + ID_LEAD)
    };
    auction + FIRST_ID
}

fn bidder(event: &Event) -> u64 {
    let mut random = event.random(31);
    let person = if random.below(4) > 0 {
        event.last_person() / HOT_STRIDE * HOT_STRIDE + 1
    } else {
        event.some_person(&mut random)
    };
    person + FIRST_ID
}

/// A hot channel, or the number of another.
fn channel_number(event: &Event) -> Result<&'static str, u64> {
    let mut random = event.random(33);
    if random.below(2) > 0 {
        return Ok(HOT_CHANNELS[random.below(HOT_CHANNELS.len() as u64) as usize]);
    }
    Err(random.below(CHANNELS))
}

fn channel(event: &Event, out: &mut String) {
    let _ = match channel_number(event) {
        Ok(hot) => write!(out, "{hot}"),
        Err(number) => write!(out, "channel-{number}"),
    };
}

/// The address of the page that a bid was made on: each channel has one, and of those that are not hot nine in ten tell a number of
/// the channel's in it.
fn url(event: &Event, out: &mut String) {
    let channel = channel_number(event);
    let mut random = match channel {
        Ok(hot) => Random::new(event.seed, 35, hot.len() as u64 * 256 + u64::from(hot.as_bytes()[0])),
        Err(number) => Random::new(event.seed, 36, number),
    };
    out.push_str("https://www.nexmark.com");
    for _ in 0..3 {
        out.push('/');
        random.letters(5, out);
    }
    out.push_str("/item.htm?query=1");
    if let Err(number) = channel
        && random.below(10) > 0
    {
        let _ = write!(out, "&channel_id={}", (number as i32).reverse_bits().unsigned_abs());
    }
}
