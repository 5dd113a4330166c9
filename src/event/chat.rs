//! What happens in the chat.

use metrics::counter;
use tracing::{error, info, warn};

use super::Event;

pub(super) fn emit_chat(event: &Event<'_>) {
    match event {
        Event::ChatMessageTampered { message, conversation, is_news } => {
            counter!("tarishi_chat_tampered_total").increment(1);
            if *is_news {
                error!(
                    message,
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
        _ => {}
    }
}
