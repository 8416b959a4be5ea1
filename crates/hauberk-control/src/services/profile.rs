//! The messages of `Destination.GetProfile`.

use hauberk_index::Answer;
use hauberk_wire::api::destination::DestinationProfile;

use super::{Edge, Said};

/// Tells each profile as a whole.
#[derive(Debug)]
pub(super) struct ProfileEdge;

impl Edge for ProfileEdge {
    type Message = DestinationProfile;

    fn say(&mut self, answer: &Answer) -> Said<DestinationProfile> {
        match answer {
            Answer::Profile(profile) => {
                Said::Messages(vec![hauberk_wire::profile::to_wire(profile)])
            }
            // Asking again gets the refusal as a status.
            Answer::Refused(_) => Said::End,
            Answer::Inbound(_) | Answer::Outbound(_) | Answer::Endpoints(_) | Answer::Status(_) => {
                Said::End
            }
        }
    }
}
