//! What every database behind the store must do. A test is a function over a fresh [`TestStore`](crate::fixture::TestStore); the list at
//! the end makes one of each for every backend.

mod accept;
mod attempts;
mod auditing;
mod callbacks;
mod cancel;
pub(crate) mod chat;
mod chat_import;
mod chat_messages;
mod chat_notices;
mod claims;
mod collapse;
mod contacts;
mod events;
mod events_full;
mod inbox;
mod large_jobs;
mod listings;
mod live;
mod retention;
mod revocations;
mod suppressions;
mod suspects;
mod writer;

macro_rules! contract {
    ($($backend:ident: $type:ty),+; $groups:tt) => { $(contract! { @one $backend, $type, $groups })+ };
    (@one $backend:ident, $type:ty, { $($group:ident { $($test:ident)+ })+ }) => {
        mod $backend {
            $(mod $group {
                $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::super::$group::$test(crate::fixture::TestStore::<$type>::fresh()).await;
                })+
            })+
        }
    };
}

contract! {
    sqlite: crate::fixture::Sqlite;
    {
        accept {
            a_new_job_is_written_whole
            a_known_id_with_the_same_body_is_a_repeat
            a_known_id_with_another_body_is_a_conflict
            an_array_is_all_or_nothing
            an_array_may_not_contradict_itself
            groups_stand_and_fall_alone
            a_group_sees_those_before_it
            a_job_without_deliveries_is_finished_at_once
            deliveries_begin_where_they_were_placed
        }
        attempts {
            a_gate_opens_once
            a_gate_refuses_another_number_and_another_owner
            a_gate_refuses_what_is_cancelled_or_collapsed
            a_gate_expires_what_is_too_late
            an_outcome_is_recorded_once
            a_retry_is_queued_until_it_is_due
            what_was_refused_for_our_own_set_up_is_told_apart
            every_end_is_kept_with_its_code
            a_late_outcome_stays_on_its_own_attempt
            a_late_sent_lifts_what_waits
            a_late_sent_lifts_what_was_given_up_as_unknown
            a_late_sent_lifts_nothing_else
            nothing_is_sent_again_after_a_late_sent
            an_unknown_outcome_never_replaces_a_known_one
            an_outcome_of_a_purged_delivery_leaves_nothing
            interrupted_attempts_are_found_after_a_restart
            an_interrupted_row_that_does_not_read_back_keeps_nobody
        }
        callbacks {
            a_repeat_changes_nothing
            a_failure_of_an_earlier_attempt_leaves_a_later_success
            a_failure_before_the_answer_counts
            what_is_confirmed_has_no_code
            whoever_reads_it_has_it
            who_comes_back_takes_back_only_what_was_before
        }
        cancel {
            what_waits_is_cancelled_and_what_is_under_way_is_too_late
            an_attempt_under_way_is_not_repeated
            an_attempt_under_way_may_still_be_sent
            a_repeat_is_harmless
            an_unknown_job_is_no_job
            a_large_job_is_cancelled_unmade_ones_included
            a_cancelled_large_job_begins_no_attempt
            many_steps_reach_every_delivery
        }
        chat {
            a_conversation_is_made_once_for_its_key
            two_people_have_one_conversation_about_one_thing
            conversations_are_listed_by_activity
            conversations_made_in_one_moment_are_all_listed
            who_leaves_hears_nothing_until_they_are_back
            participants_are_added_up_to_the_limit
            who_is_blocked_does_not_get_through
        }
        chat_messages {
            a_message_is_stored_with_all_that_follows
            a_client_id_sends_once
            ids_and_events_are_in_the_order_of_the_commits
            a_note_that_panics_takes_nobody_with_it
            a_message_is_edited_by_its_sender
            a_message_is_deleted_for_everyone
            a_message_is_hidden_for_one
            who_was_away_gets_every_event
            history_is_read_both_ways
            a_read_pointer_only_goes_forward
        }
        chat_notices {
            who_is_away_is_told_once
            reading_takes_a_notice_back
            what_is_sent_already_is_not_cancelled
            a_job_that_comes_too_late_is_cancelled
            a_job_made_before_a_crash_is_cancelled_too
            a_notice_goes_with_what_it_tells_of
            notices_outlive_a_restart
        }
        chat_import {
            ids_are_kept_and_counts_are_made
            a_batch_can_be_given_again
            sealed_texts_are_replaced_where_they_are_unchanged
        }
        claims {
            only_what_is_due_is_claimed
            priorities_are_claimed_apart
            nothing_is_claimed_twice
            channels_are_claimed_apart
            a_delivery_is_claimed_as_it_was_accepted
            leases_are_void_after_a_restart
            leases_are_given_back
            leases_are_renewed
            a_row_that_does_not_read_back_fails_alone
        }
        collapse {
            a_newer_delivery_takes_the_place_of_an_older_one
            nobody_else_is_collapsed
            what_has_begun_is_not_collapsed
            a_large_job_overtaken_by_a_newer_one_is_collapsed
            a_cancelled_large_job_collapses_nobody
        }
        contacts {
            a_contact_is_put_changed_and_deleted
            a_refused_change_changes_nothing
            a_device_belongs_to_whoever_registered_it_last
            only_the_owner_forgets_a_device
            the_oldest_devices_are_forgotten
            the_device_just_registered_is_never_the_one_forgotten
            contacts_are_found_together
            contacts_are_known_after_a_restart
        }
        events {
            every_move_is_told_in_order
            every_end_is_told
            what_waits_and_ends_is_told
            rows_that_do_not_read_back_are_told
            a_late_sent_is_told
            live_notifications_are_told
            an_event_keeps_what_was_true_at_its_moment
            an_event_carries_what_its_job_said
            only_the_statuses_asked_for_are_told
            a_job_is_finished_once
            large_jobs_are_told_as_they_are_made
            a_dead_address_is_told_once
            a_write_that_fails_tells_nothing
            removed_events_are_gone
            rows_that_nothing_can_be_told_of_are_passed_over
            a_publisher_is_woken_by_the_commit
            events_off_writes_nothing
            a_job_stays_until_its_events_are_gone
        }
        events_full {
            the_oldest_are_dropped_for_the_newest
            a_lower_limit_drops_at_the_next_commit
            jobs_are_refused_and_outcomes_are_not
            intake_opens_again_below_nine_tenths
            a_full_store_is_still_full_after_a_restart
            one_call_of_many_groups_is_refused_whole
        }
        large_jobs {
            steps_make_every_delivery
            a_restart_goes_on_at_the_cursor
            two_expanders_make_nothing_twice
            the_oldest_is_made_first
        }
        listings {
            pages_have_no_holes_and_no_repeats
            every_filter_tells_the_truth
            since_does_not_trust_the_order_of_the_clock
            a_job_is_viewed_in_pages
            a_job_shows_its_attempts
            an_unknown_job_is_none
        }
        inbox {
            a_stream_is_read_in_order_and_says_how_far
            changes_are_counted_and_lift_what_brought_them
            changes_since_an_item_came_are_found
            an_inbox_is_listed_in_pages
            only_so_many_are_kept
            a_topic_is_a_stream_of_its_own
            a_lost_topic_item_is_missed
            old_items_go_and_the_floor_rises
            a_batch_is_one_commit_in_order
        }
        live {
            a_notification_is_in_the_inbox_and_sent_in_one_commit
            accept_itself_stores_what_has_a_place
            a_job_that_is_not_taken_stores_nothing
            what_accept_stores_takes_the_place_of_older_ones
            sequences_have_no_gaps_under_concurrency
            a_repeat_finds_its_row
            a_newer_item_replaces_an_older_one
            an_expired_one_leaves_no_row
            only_sent_ones_are_marked_delivered
        }
        retention {
            a_purged_job_is_remembered
            a_purged_job_is_forgotten_in_the_end
            an_id_that_came_back_is_remembered_anew
            open_jobs_are_kept
            a_large_job_goes_in_steps
            purged_inbox_items_are_no_loss
        }
        revocations {
            they_outlive_a_restart_and_can_be_taken_back
            a_repeat_covers_up_to_the_later_moment
            the_purge_forgets_old_revocations
        }
        suppressions {
            a_gate_holds_back_what_waits_in_memory
            a_gate_holds_back_between_attempts
            a_gate_holds_back_from_the_next_provider
            a_gate_holds_back_what_was_meant_for_later
            a_list_holds_back_its_own_mails
            each_reason_lasts_its_time
            what_is_over_holds_nobody_back
            pages_of_the_list_have_no_holes
            a_dead_address_is_suppressed_with_its_outcome
        }
        suspects {
            tries_are_counted_across_restarts
            the_purge_forgets_old_ones
        }
        auditing {
            a_row_that_disappears_is_noticed
            every_kind_of_damage_is_noticed
        }
        writer {
            a_write_that_panics_takes_nobody_with_it
            a_write_that_fails_takes_nobody_with_it
            what_was_handed_over_is_written_before_the_end
            nothing_is_written_after_the_end
            a_store_that_is_dropped_lets_go
            incarnations_count_up_and_the_epoch_stays
        }
    }
}
