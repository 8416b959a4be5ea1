//! The emoji one may vote for.

/// One emoji.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Emoji {
    /// Name between colons, `:doughnut:`.
    pub(crate) shortcode: &'static str,
    /// The character itself.
    pub(crate) unicode: &'static str,
}

/// The emoji whose votes fail.
pub(crate) const DOUGHNUT: &str = ":doughnut:";

/// All emoji on offer.
pub(crate) fn all() -> impl Iterator<Item = Emoji> + Clone {
    CATALOGUE.iter().map(|&(shortcode, unicode)| Emoji { shortcode, unicode })
}

/// The emoji of that shortcode.
pub(crate) fn find(shortcode: &str) -> Option<Emoji> {
    all().find(|emoji| emoji.shortcode == shortcode)
}

/// The remote procedure that counts a vote for `shortcode`: `VoteDoughnut` for `:doughnut:`.
pub(crate) fn procedure(shortcode: &str) -> String {
    let words = shortcode.trim_matches(':').split(['_', '-']);
    let capitalised = words.map(|word| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
    });
    format!("Vote{}", capitalised.collect::<Vec<String>>().concat())
}

#[rustfmt::skip]
const CATALOGUE: &[(&str, &str)] = &[
    (":joy:", "😂"), (":sunglasses:", "😎"), (":doughnut:", "🍩"), (":stuck_out_tongue_winking_eye:", "😜"),
    (":money_mouth_face:", "🤑"), (":flushed:", "😳"), (":mask:", "😷"), (":nerd_face:", "🤓"),
    (":ghost:", "👻"), (":skull_and_crossbones:", "☠️"), (":heart_eyes_cat:", "😻"), (":hear_no_evil:", "🙉"),
    (":see_no_evil:", "🙈"), (":speak_no_evil:", "🙊"), (":boy:", "👦"), (":girl:", "👧"),
    (":man:", "👨"), (":woman:", "👩"), (":older_man:", "👴"), (":policeman:", "👮"),
    (":guardsman:", "💂"), (":construction_worker_man:", "👷"), (":prince:", "🤴"), (":princess:", "👸"),
    (":man_in_tuxedo:", "🤵"), (":bride_with_veil:", "👰"), (":mrs_claus:", "🤶"), (":santa:", "🎅"),
    (":turkey:", "🦃"), (":rabbit:", "🐰"), (":no_good_woman:", "🙅"), (":ok_woman:", "🙆"),
    (":raising_hand_woman:", "🙋"), (":bowing_man:", "🙇"), (":man_facepalming:", "🤦"), (":woman_shrugging:", "🤷"),
    (":massage_woman:", "💆"), (":walking_man:", "🚶"), (":running_man:", "🏃"), (":dancer:", "💃"),
    (":man_dancing:", "🕺"), (":dancing_women:", "👯"), (":rainbow:", "🌈"), (":skier:", "⛷️"),
    (":golfing_man:", "🏌️"), (":surfing_man:", "🏄"), (":basketball_man:", "⛹️"), (":biking_man:", "🚴"),
    (":point_up_2:", "👆"), (":vulcan_salute:", "🖖"), (":metal:", "🤘"), (":call_me_hand:", "🤙"),
    (":thumbsup:", "👍"), (":wave:", "👋"), (":clap:", "👏"), (":raised_hands:", "🙌"),
    (":pray:", "🙏"), (":dog:", "🐶"), (":cat2:", "🐈"), (":pig:", "🐷"),
    (":hatching_chick:", "🐣"), (":snail:", "🐌"), (":bacon:", "🥓"), (":pizza:", "🍕"),
    (":taco:", "🌮"), (":burrito:", "🌯"), (":ramen:", "🍜"), (":champagne:", "🍾"),
    (":tropical_drink:", "🍹"), (":beer:", "🍺"), (":tumbler_glass:", "🥃"), (":world_map:", "🗺️"),
    (":beach_umbrella:", "🏖️"), (":mountain_snow:", "🏔️"), (":camping:", "🏕️"), (":steam_locomotive:", "🚂"),
    (":flight_departure:", "🛫"), (":rocket:", "🚀"), (":star2:", "🌟"), (":sun_behind_small_cloud:", "🌤️"),
    (":cloud_with_rain:", "🌧️"), (":fire:", "🔥"), (":jack_o_lantern:", "🎃"), (":balloon:", "🎈"),
    (":tada:", "🎉"), (":trophy:", "🏆"), (":iphone:", "📱"), (":pager:", "📟"),
    (":fax:", "📠"), (":bulb:", "💡"), (":money_with_wings:", "💸"), (":crystal_ball:", "🔮"),
    (":underage:", "🔞"), (":interrobang:", "⁉️"), (":100:", "💯"), (":checkered_flag:", "🏁"),
    (":crossed_swords:", "⚔️"), (":floppy_disk:", "💾"), (":poop:", "💩"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_emoji_has_a_procedure_of_its_own() {
        let procedures: BTreeSet<_> = all().map(|emoji| procedure(emoji.shortcode)).collect();
        assert_eq!(procedures.len(), CATALOGUE.len());
        assert_eq!(CATALOGUE.len(), 99);
    }

    #[test]
    fn procedures_are_named_like_the_original() {
        assert_eq!(procedure(":doughnut:"), "VoteDoughnut");
        assert_eq!(procedure(":stuck_out_tongue_winking_eye:"), "VoteStuckOutTongueWinkingEye");
        assert_eq!(procedure(":100:"), "Vote100");
    }
}
