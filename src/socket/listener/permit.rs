//! Places: one for each connection among all, and so many for each address.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::OwnedSemaphorePermit;

/// A connection's place among `max_connections`, and its client's among those of its address; an extension of every request. Whoever
/// keeps an upgraded socket keeps this with it.
#[derive(Clone, Debug)]
pub(in crate::socket) struct ConnectionPermit {
    connection: Arc<(OwnedSemaphorePermit, Option<AddressPermit>)>,
    /// Where one connection carries the requests of many clients: a proxy's.
    client: Option<Arc<AddressPermit>>,
}

impl ConnectionPermit {
    pub(super) fn new(place: OwnedSemaphorePermit, address: Option<AddressPermit>) -> Self {
        Self { connection: Arc::new((place, address)), client: None }
    }

    pub(super) fn with_client(&self, client: Option<AddressPermit>) -> Self {
        Self { connection: self.connection.clone(), client: client.map(Arc::new) }
    }

    pub(super) fn client(&self) -> Option<Arc<AddressPermit>> {
        self.client.clone()
    }
}

/// Counts who is connected, by address.
#[derive(Debug)]
pub(super) struct AddressLimit {
    limit: usize,
    counts: Mutex<HashMap<Network, usize>>,
}

/// What counts as one: an IPv4 address, or the /64 that one IPv6 customer gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Network {
    V4(Ipv4Addr),
    V6([u16; 4]),
}

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => {
                let [first, second, third, fourth, ..] = address.segments();
                Self::V6([first, second, third, fourth])
            }
        }
    }
}

/// A place of an address. Dropped, it is free again.
#[derive(Debug)]
pub(super) struct AddressPermit {
    limit: Arc<AddressLimit>,
    network: Network,
}

impl AddressLimit {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, counts: Mutex::default() }
    }

    /// `None` when all its places are taken.
    pub(super) fn take(self: &Arc<Self>, address: IpAddr) -> Option<AddressPermit> {
        let network = Network::from(address);
        let mut counts = self.counts();
        let count = counts.entry(network).or_default();
        if *count >= self.limit {
            return None;
        }
        *count += 1;
        Some(AddressPermit { limit: self.clone(), network })
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<Network, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        let mut counts = self.limit.counts();
        if let Some(count) = counts.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(limit: &Arc<AddressLimit>, address: &str, expected: bool) -> Option<AddressPermit> {
        let taken = limit.take(address.parse().unwrap());
        assert_eq!(taken.is_some(), expected, "{address}");
        taken
    }

    #[test]
    fn each_address_has_its_own_places_and_gets_them_back() {
        let limit = Arc::new(AddressLimit::new(2));
        let first = check(&limit, "192.0.2.1", true);
        let _second = check(&limit, "::ffff:192.0.2.1", true);
        check(&limit, "192.0.2.1", false);
        let _other = check(&limit, "192.0.2.2", true);
        drop(first);
        let _again = check(&limit, "192.0.2.1", true);
        check(&limit, "192.0.2.1", false);
    }

    #[test]
    fn ipv6_counts_by_64() {
        let limit = Arc::new(AddressLimit::new(1));
        let _one = check(&limit, "2001:db8:0:1::1", true);
        check(&limit, "2001:db8:0:1:ffff::2", false);
        let _neighbour = check(&limit, "2001:db8:0:2::1", true);
    }

    #[test]
    fn nothing_is_kept_of_those_who_left() {
        let limit = Arc::new(AddressLimit::new(1));
        drop(check(&limit, "192.0.2.1", true));
        assert!(limit.counts().is_empty());
    }
}
