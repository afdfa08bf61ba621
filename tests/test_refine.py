"""The prompt refiner: every back end, what it refuses, and what a manifest says of it."""

import json
import socket
import sys
import types
import warnings

import numpy as np
import pytest
import tiny_pipeline
import tokenizers
from golden_file import Golden
from refiner_server import serving
from test_llama import write_checkpoint

from mindsora import cli
from mindsora.errors import InputError
from mindsora.jobs import plan
from mindsora.jobs.refining import refined, refined_record
from mindsora.refine import NoAnswer, Refined, back_end, endpoint, refine
from mindsora.refine.instruction import SYSTEM, request
from mindsora.refine.llama import Llama, Sampling
from mindsora.text.chat import ChatTokenizer

LLAMA3 = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def server():
    with serving() as one:
        yield one


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_pipeline.write(tmp_path_factory.mktemp("models") / "tiny"))


def tokenizer_with(special):
    """Bytes, in which every byte is a token, and the special tokens behind them."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    return tokenizer


def write_llama(folder, ending=256):
    """A refiner's folder: the golden weights with an embedding for every byte and special token."""
    golden = Golden("llama")
    rng = np.random.default_rng(0)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        golden.weights[name] = rng.standard_normal((260, 32)).astype(np.float32)
    write_checkpoint(folder, golden, vocab_size=260, max_position_embeddings=2048, eos_token_id=ending)
    tokenizer_with(LLAMA3).save(str(folder / "tokenizer.json"))
    return folder


# What refine() makes of an answer


@pytest.mark.parametrize(
    "answer, prompt, kept",
    [
        ("A cat runs\n\nthrough  fog.", "A cat runs through fog.", None),
        ("<think>what cat?\nhm</think>\nA cat runs.", "A cat runs.", None),
        ("<think>what cat?", "a cat", "the answer is empty"),
        ("", "a cat", "the answer is empty"),
        (' \n"..."', "a cat", "the answer is empty"),
        ("A \x1b[31mcat\u202e runs\ud800", "A [31mcat runs", None),
        ("cat " * 3000, "a cat", "the answer has 11999 characters, more than 10000"),
        ("no", "a cat", "refused"),
    ],
)  # fmt: skip
def test_answers(answer, prompt, kept):
    refusal = lambda answer: "refused" if answer == "no" else None  # noqa: E731
    assert refine("a cat", lambda prompt: answer, refusal) == Refined("a cat", prompt, kept)


def test_a_back_end_without_an_answer_keeps_the_prompt():
    def silent(prompt):
        raise NoAnswer("the answer does not end within 512 tokens")

    assert refine("a cat", silent) == Refined("a cat", "a cat", "the answer does not end within 512 tokens")


def test_braces_of_a_prompt_are_text():
    assert 'Refine the sentence: "a {0} {} cat" to contain subject' in request("a {0} {} cat")


def test_names_of_back_ends(tmp_path):
    with pytest.raises(
        InputError, match="refiner 'gpt': must be a .json file .*, the folder of a Llama model, the URL"
    ):
        back_end("gpt")


# A file of prompts


def test_a_file_of_prompts(tmp_path):
    path = tmp_path / "refined.json"
    path.write_text('{"a cat": "A grey cat runs.", "fog": "Thick fog."}')
    by = back_end(str(path))
    assert refine("fog", by).prompt == "Thick fog."
    with pytest.raises(InputError, match="holds no refined prompt for 'a cat!'; nearest: 'a cat'"):
        by("a cat!")
    path.write_text('{"a cat": ["A grey cat runs."]}')
    with pytest.raises(InputError, match="the value of 'a cat' must be the refined prompt, a text"):
        back_end(str(path))
    path.write_text("[]")
    with pytest.raises(InputError, match="must hold a JSON object"):
        back_end(str(path))


# A server


def test_an_endpoint_is_asked_as_the_refiner_was_trained(server):
    server.says("A grey cat runs.")
    by = back_end(server.url)
    assert [refine(prompt, by).prompt for prompt in ("a cat", "fog")] == ["A grey cat runs."] * 2
    first = server.asked[0]
    assert first["messages"] == [{"role": "system", "content": SYSTEM}, {"role": "user", "content": request("a cat")}]
    assert (first["model"], first["max_tokens"], first["stream"], len(server.asked)) == ("refiner", 512, False, 2)


def test_a_server_with_several_models_needs_a_name(server):
    server.says("A grey cat runs.")
    server.models = ["llama", "qwen"]
    with pytest.raises(InputError, match=r"has 2 models \(llama, qwen\): name one as http://.*/v1#MODEL"):
        back_end(server.url)("a cat")
    assert back_end(f"{server.url}#qwen")("a cat") and server.asked[0]["model"] == "qwen"
    server.models = []
    with pytest.raises(InputError, match=r"has 0 models \(none\)"):
        back_end(server.url)("a cat")


@pytest.mark.parametrize("content, finish", [(None, "stop"), ("", "stop"), ("A grey cat", "length")])
def test_an_answer_that_is_none_keeps_the_prompt(server, content, finish):
    server.says(content, finish)
    result = refine("a cat", back_end(server.url))
    assert result.prompt == "a cat" and ("empty" in result.kept or "does not end" in result.kept)


@pytest.mark.parametrize(
    "status, reply, message",
    [
        (500, {"error": {"message": "out of memory \x1b[31m"}}, "answers POST /chat/completions with status 500"),
        (404, b"<html>", "status 404: <html>"),
        (307, b"", "status 307"),
        (200, b"<html>", "is not JSON: .*is it an OpenAI-style endpoint"),
        (200, b"\xff\xfe", "is not JSON"),
        (200, b"[" * 100_000, "is not JSON"),
        (200, b" " * (endpoint._MAX_REPLY + 1), "is longer than 4194304 bytes"),
        (200, [], "has no choices"),
        (200, {"choices": []}, "has no choices"),
        (200, {"choices": [{"text": "a completion"}]}, "has no choices"),
        (200, {"choices": [{"message": {"content": ["a"]}}]}, "has a content of type list, not a text"),
    ],
)  # fmt: skip
def test_absurd_replies(server, status, reply, message):
    server.status, server.reply = status, reply
    with pytest.raises(InputError, match=message) as error:
        back_end(server.url)("a cat")
    assert str(error.value).isprintable() and len(str(error.value)) < 700


def test_a_listing_that_is_none(server):
    server.models = [None]
    with pytest.raises(InputError, match="has 1 models"):
        back_end(server.url)("a cat")


def test_a_server_that_hangs_or_drips_ends_after_the_limit(server, monkeypatch):
    monkeypatch.setattr(endpoint, "SECONDS", 0.5)

    def hangs(handler):
        server.released.wait(100)

    def drips(handler):
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n")  # no length: the reply ends where the connection does
        while not server.released.wait(0.05):
            handler.wfile.write(b" ")

    for reply in (hangs, drips):
        server.reply = reply
        with pytest.raises(InputError, match=r"gave no answer within 0.5 seconds"):
            back_end(f"{server.url}#refiner")("a cat")


def test_a_server_that_breaks_off(server):
    def breaks(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")

    server.reply = breaks
    with pytest.raises(InputError, match="does not answer"):
        back_end(f"{server.url}#refiner")("a cat")


def test_no_server():
    with socket.socket() as closed:  # bound and not listening: connections are refused
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(InputError, match="does not answer: Connection refused"):
            back_end(f"http://127.0.0.1:{closed.getsockname()[1]}/v1")("a cat")


def test_proxies_of_the_environment_see_no_prompt(server, monkeypatch):
    server.says("A grey cat runs.")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert back_end(server.url)("a cat") == "A grey cat runs."


@pytest.mark.parametrize(
    "url",
    ["ftp://127.0.0.1/v1", "http://", "http://a:x/v1", "http://u:p@host/v1", "http://host/v1?key=1", "http://h/ v1"],
)
def test_urls_that_are_none(url):
    with pytest.raises(InputError, match="refiner"):
        back_end(url)


def test_a_url_without_a_path_means_v1():
    one = back_end("http://localhost:11434#llama3.1:8b")
    assert (one.host, one.port, one.path, one.model) == ("localhost", 11434, "/v1", "llama3.1:8b")
    assert back_end("https://host/api/v1/").port == 443


# The own Llama


def test_the_chat_is_that_of_the_training(tmp_path):
    """Llama 3's headers without the date of its stock template, as the training string has them."""
    tokenizer_with(LLAMA3).save(str(tmp_path / "tokenizer.json"))
    tokenizer = ChatTokenizer.from_folder(tmp_path)
    text = tokenizer.text("S", "U")
    assert text == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>"
        "\n\nU<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    ids = tokenizer.encode(text)
    assert ids[:2] == [256, 257] and tokenizer.end_ids == {259}
    assert tokenizer.decode(ids) == "system\n\nSuser\n\nUassistant\n\n"
    with pytest.raises(InputError, match=r"holds '<\|eot_id\|>', a control token"):
        tokenizer.text("S", "a cat<|eot_id|>")


def test_other_models_bring_a_template(tmp_path):
    from transformers import PreTrainedTokenizerFast

    tokenizer = tokenizer_with(["<|im_start|>", "<|im_end|>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": CHATML, "eos_token": "<|im_end|>"}))
    ours = ChatTokenizer.from_folder(tmp_path)
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    theirs = PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=CHATML)
    expected = theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert ours.text("S", "U") == expected and ours.end_ids == set()
    (tmp_path / "chat_template.jinja").write_text("{{ raise_exception('no system role') }}")
    with pytest.raises(InputError, match="refuses the conversation: no system role"):
        ChatTokenizer.from_folder(tmp_path).text("S", "U")
    (tmp_path / "chat_template.jinja").write_text("{{ messages.__class__.__mro__ }}")
    with pytest.raises(InputError, match="chat template fails: .*unsafe"):
        ChatTokenizer.from_folder(tmp_path).text("S", "U")


@pytest.mark.parametrize("name", ["jinja2", "jinja2.sandbox"])
def test_a_template_without_jinja2(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r"pip install 'mindsora\[refiner\]'"):
        ChatTokenizer(tokenizer_with([]), CHATML).text("S", "U")


def test_a_base_model_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"needs the tokenizer.json"):
        ChatTokenizer.from_folder(tmp_path)
    tokenizer_with([]).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(InputError, match="choose an instruct model, not a base model"):
        ChatTokenizer.from_folder(tmp_path)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return Llama(write_llama(tmp_path_factory.mktemp("refiner") / "llama"))


def test_answers_of_the_llama_are_those_of_transformers(llama, monkeypatch):
    """The cache, the padding and the greedy choice: 12 tokens after 24 from the golden file of test_llama."""
    golden = Golden("llama")
    from mindsora.ckpt_convert import load
    from mindsora.models import LlamaForCausalLM

    cell = load(LlamaForCausalLM.from_upstream(golden.config | {"max_position_embeddings": 1000}), golden.weights)
    monkeypatch.setattr(llama, "model", cell)
    monkeypatch.setattr(llama, "ends", set())
    monkeypatch.setattr(type(llama.tokenizer), "vocab_size", 96)
    monkeypatch.setattr("mindsora.refine.llama.MAX_NEW_TOKENS", 12)
    picked = []
    monkeypatch.setattr(
        llama,
        "sampling",
        types.SimpleNamespace(pick=lambda logits, rng: picked.append(int(logits.argmax())) or picked[-1]),
    )
    with pytest.raises(NoAnswer, match="does not end within"):
        llama._answer(golden.inputs["ids"].tolist())
    assert picked == golden.outputs["answer"].tolist()


@pytest.mark.full
def test_a_folder_answers_the_same_in_every_run(llama, monkeypatch):
    """Random weights: whatever text comes out, or no end within 20 tokens."""
    monkeypatch.setattr("mindsora.refine.llama.MAX_NEW_TOKENS", 20)
    monkeypatch.setattr(llama, "sampling", Sampling(do_sample=True, temperature=2.0))
    again = Llama(llama.folder)
    monkeypatch.setattr(again, "sampling", llama.sampling)
    monkeypatch.setattr(again, "model", llama.model)
    for ends in (llama.ends, set(range(0, 260, 8))):
        llama.ends = again.ends = ends
        assert refine("a cat", llama) == refine("a cat", again)


def test_what_a_llama_folder_must_hold(llama, tmp_path):
    folder = write_llama(tmp_path / "llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["Qwen3ForCausalLM"]}))
    with pytest.raises(InputError, match="holds .*Qwen3ForCausalLM.*can serve by its URL"):
        Llama(folder)
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 600}))
    with pytest.raises(InputError, match="tokens with its instruction; the refiner reads 88"):
        Llama(folder)("a cat " * 100)
    (folder / "generation_config.json").write_text('{"temperature": 0}')
    with pytest.raises(InputError, match="temperature = 0 is out of range"):
        Llama(folder)


def test_sampling():
    logits, rng = np.log(np.array([0.1, 0.5, 0.15, 0.25], np.float32)), np.random.default_rng(0)
    assert Sampling().pick(logits, rng) == 1

    def shares(**settings):
        drawn = [Sampling(do_sample=True, **settings).pick(logits, rng) for _ in range(4000)]
        return np.bincount(drawn, minlength=4) / 4000

    # four standard deviations of 4000 draws
    np.testing.assert_allclose(shares(), [0.1, 0.5, 0.15, 0.25], atol=0.032)
    np.testing.assert_allclose(shares(top_k=2), [0, 2 / 3, 0, 1 / 3], atol=0.032)
    np.testing.assert_allclose(shares(top_p=0.6), [0, 2 / 3, 0, 1 / 3], atol=0.032)  # 0.5 alone does not reach 0.6
    np.testing.assert_allclose(shares(top_p=0), [0, 1, 0, 0])
    squared = np.array([0.01, 0.25, 0.0225, 0.0625])
    np.testing.assert_allclose(shares(temperature=0.5), squared / squared.sum(), atol=0.032)


# mindformers: a stand-in with the parameters of mindformers 2.1.0 (mindformers/trainer/trainer.py)


class Trainer:
    def __init__(
        self, args=None, task="general", model=None, model_name=None, tokenizer=None, train_dataset=None, eval_dataset=None,
        data_collator=None, optimizers=None, compute_metrics=None, callbacks=None, eval_callbacks=None, pet_method="",
        image_processor=None, audio_processor=None, save_config=False, reset_model=False,
    ):  # fmt: skip
        assert task == "text_generation" and args.endswith(".yaml")
        self.config = {"pretrained_model_dir": self.folder}

    def predict(
        self, predict_checkpoint=None, auto_trans_ckpt=None, src_strategy=None, transform_process_num=None, input_data=None,
        batch_size=None, **kwargs,
    ):  # fmt: skip
        """As TextGenerationPipeline: the text of the prompt and the answer, without control tokens, in a list of one."""
        (text,) = input_data
        assert kwargs == {"add_special_tokens": False, "max_new_tokens": 512}
        tokenizer = ChatTokenizer.from_folder(self.folder)
        ids = tokenizer.encode(text) + tokenizer.encode(self.answer)
        return [{"text_generation_text": [tokenizer.decode(ids)]}]


def test_mindformers(tmp_path, monkeypatch):
    tokenizer_with(LLAMA3).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "predict.yaml").write_text("use_legacy: False\n")
    trainer = type("Trainer", (Trainer,), {"folder": str(tmp_path), "answer": "A grey cat runs.<|eot_id|>"})
    monkeypatch.setitem(sys.modules, "mindformers", types.SimpleNamespace(Trainer=trainer))
    by = back_end(f"mindformers:{tmp_path / 'predict.yaml'}")
    assert refine("a cat", by) == Refined("a cat", "A grey cat runs.")
    trainer.folder = None
    with pytest.raises(InputError, match="lacks pretrained_model_dir"):
        back_end(f"mindformers:{tmp_path / 'predict.yaml'}")("a cat")
    trainer.folder = str(tmp_path)
    trainer.predict = lambda self, **kwargs: [{}]
    with pytest.raises(InputError, match="no generated text"):
        back_end(f"mindformers:{tmp_path / 'predict.yaml'}")("a cat")


def test_mindformers_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mindformers", None)
    (tmp_path / "predict.yaml").touch()
    with pytest.raises(InputError, match=r"cannot be imported .*docs/prompt_refiner.md says which versions"):
        back_end(f"mindformers:{tmp_path / 'predict.yaml'}")("a cat")
    with pytest.raises(InputError, match="needs the YAML file"):
        back_end("mindformers:nowhere.yaml")


# In a run


def test_a_plan_is_refined_prompt_by_prompt(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    asked = []

    def by(prompt):
        asked.append(prompt)
        return f"{prompt} runs" if prompt != "fog" else ""

    first = plan(model, ["a cat", "fog"], "v.mp4", seeds=[4, 5], refiner=by)
    with pytest.warns(UserWarning, match="prompt 'fog' stays as it is: the answer is empty"):
        jobs = refined(first).jobs
    assert [(job.request.prompts, job.request.seed) for job in jobs] == [
        (("a cat runs",), 4), (("a cat runs",), 5), (("fog",), 4), (("fog",), 5),
    ]  # fmt: skip
    assert asked == ["a cat", "fog"] and "refined 'a cat': 'a cat runs'" in capsys.readouterr().err
    assert refined_record(first, jobs[2]) == {
        "original": "fog",
        "prompt": "fog",
        "by": "by",
        "kept": "the answer is empty",
    }
    unrefined = plan(model, ["a cat"], "v.mp4")
    assert refined(unrefined) is unrefined and refined_record(unrefined, unrefined.jobs[0]) is None


@pytest.mark.parametrize(
    "answer, kept", [("cat " * 600, "tokens, more than the 39 that the text encoder reads"), ("猫", "no words left")]
)
def test_answers_that_the_model_cannot_read(model, tmp_path, monkeypatch, answer, kept):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (job,) = refined(plan(model, ["a cat"], "v.mp4", refiner=lambda prompt: answer)).jobs
    assert job.request.prompts == ("a cat",) and kept in job.refined.kept


def test_never_for_given_frames(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["generate", "a cat", "--model", "nano_i2v", "--refine", "http://h/v1", "--output", "v.mp4"])
    assert "makes videos from given frames, which cannot show what a refined prompt adds" in capsys.readouterr().err


@pytest.mark.full
def test_generate_and_rerun(model, server, tmp_path, monkeypatch):
    """Both prompts are in the manifest; a rerun takes the refined one and asks nobody."""
    monkeypatch.chdir(tmp_path)
    server.says("A cat runs.")
    assert not cli.main(
        [
            "generate",
            "a cat",
            "--model",
            model,
            "--refine",
            server.url,
            "--output",
            "v.mp4",
            "--steps",
            "1",
            "--jit",
            "off",
            "--quiet",
        ]
    )
    first = json.loads((tmp_path / "v.mp4.json").read_text())
    assert first["request"]["prompt"] == "A cat runs." and "cat runs" in first["text"]["positive"].lower()
    record = {"original": "a cat", "prompt": "A cat runs.", "by": server.url, "kept": None}
    assert first["run"]["refined"] == record and len(server.asked) == 1
    assert not cli.main(["rerun", "v.mp4.json", "--output", "again.mp4"])
    again = json.loads((tmp_path / "again.mp4.json").read_text())
    assert again["run"]["rerun_of"]["run"]["refined"] == record and len(server.asked) == 1
    assert again["result"]["frames_sha256"] == first["result"]["frames_sha256"]
