//! What happens in the chat.

use metrics::counter;
use tracing::{error, info, warn};

use super::Event;

pub(super) fn emit_chat(event: &Event<'_>) {
    match event {
        Event::ChatOperated { by, what, conversation, message } => info!(by, what, conversation, message_id = message, "chat operated on"),
        Event::ChatMessageTampered { message, conversation, is_news } => {
            counter!("tarishi_chat_tampered_total").increment(1);
            if *is_news {
                error!(
                    message_id = message,
                    conversation,
                    "chat message tampered: what is stored is not what was sealed for it, or its key is gone from \
                     chat.encryption_keys_file; it is shown as such"
                );
            }
        }
        Event::ChatHookRefused { conversation } => {
            counter!("tarishi_chat_hook_total", "result" => "refused").increment(1);
            info!(conversation, "chat message refused by the hook");
        }
        Event::ChatHookFailed { reason, is_open } => {
            counter!("tarishi_chat_hook_total", "result" => "failed").increment(1);
            let outcome = if *is_open { "the message goes through" } else { "the message is refused" };
            warn!(reason, "chat hook failed: {outcome} (chat.hook.on_failure)");
        }
        Event::ChatNoticeMade { job, conversation } => {
            counter!("tarishi_chat_notices_total", "result" => "made").increment(1);
            info!(job = job.as_str(), conversation, "chat notice made");
        }
        Event::ChatNoticeDropped { conversation, reason } => {
            counter!("tarishi_chat_notices_total", "result" => *reason).increment(1);
            info!(conversation, reason, "chat notice dropped");
        }
        Event::ChatNoticesNotAccepted { reason } => {
            warn!(reason, "chat notices are dropped: they cannot be made into jobs; see the template new_message");
        }
        _ => {}
    }
}
