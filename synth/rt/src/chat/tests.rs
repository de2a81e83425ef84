use super::*;

fn message(role: &'static str, content: &str) -> Message {
    Message { role, content: content.to_owned(), name: None }
}

fn render(source: &'static str, messages: &[Message]) -> Result<String, ChatError> {
    ChatTemplate::new(source, "<s>", "</s>")?.render(messages, true)
}

#[test]
fn whitespace_methods_and_tokens_are_as_in_hugging_face() {
    let source = "
{%- for message in messages %}
    {% if message['role'] == 'user' %}
{{ bos_token }}[{{ message.content.strip() | upper }}]
    {% else %}
{{ message['content'].split('x')[-1] ~ eos_token }}
    {% endif %}
    {%- if loop.index == 2 %}{% break %}{% endif %}
{% endfor %}
{{- 'go' if add_generation_prompt and tools is none and strftime_now is not defined }}
";
    let messages = [message("user", " hi "), message("assistant", "axb"), message("user", "lost")];
    assert_eq!(render(source, &messages).expect("rendered"), "<s>[HI]\nb</s>\ngo");
}

#[test]
fn json_is_spelled_as_python_does() {
    let source = "{{ messages | tojson }}";
    let json = render(source, &[message("user", "é <b> \"q\"")]).expect("rendered");
    assert_eq!(json, r#"[{"role": "user", "content": "é <b> \"q\""}]"#);
}

#[test]
fn a_template_can_refuse_and_its_words_reach_the_client() {
    let source =
        "{% if messages[0].role != 'user' %}{{ raise_exception('first must be user') }}{% endif %}ok";
    assert_eq!(render(source, &[message("user", "x")]).expect("rendered"), "ok");
    let error = render(source, &[message("system", "x")]).expect_err("refused");
    assert!(matches!(&error, ChatError::Refused(words) if words == "first must be user"), "{error}");
}

#[test]
fn endless_templates_run_out_of_fuel() {
    for source in [
        "{% for a in range(10000) %}{% for b in range(10000) %}x{% endfor %}{% endfor %}",
        "{% set ns = namespace(s='x') %}{% for a in range(64) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
    ] {
        let error = render(source, &[]).expect_err("out of fuel");
        assert!(matches!(&error, ChatError::Failed(_)), "{error}");
    }
}

#[test]
fn an_invalid_template_is_found_at_once() {
    for source in ["{% for %}", "{% generation %}x{% endgeneration %}", "{{ messages | nosuch }}"] {
        let made = ChatTemplate::new(source, "", "");
        let failed = match made {
            Err(error) => error.to_string(),
            Ok(template) => template.render(&[], true).expect_err("unknown filter").to_string(),
        };
        assert!(failed.contains("chat template"), "{failed}");
    }
}

#[test]
fn user_text_is_never_a_template() {
    let source = "{{ messages[0].content }}";
    let text = "{{ 7 * 7 }}{% raw %} {# c #}";
    assert_eq!(render(source, &[message("user", text)]).expect("rendered"), text);
}
