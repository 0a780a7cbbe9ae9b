"""Transformers as their owners use them under Lightning: a BERT classifier, the same with LoRA, and a causal model."""

import lightning as L
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.data import DataLoader, Dataset
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

VOCABULARY, LENGTH, PROMPT = 48, 12, 4
KNOWN, WRONG, TESTED = 160, 16, 80


class Reviews(Dataset):
    """A review is good or bad by its words; of the first some the owner got the label wrong."""

    def __init__(self, count, seed, wrong=0):
        draw = torch.Generator().manual_seed(seed)
        self.labels = torch.arange(count) % 2
        self.texts = torch.randint(8, VOCABULARY, (count, LENGTH), generator=draw)
        self.texts[:, :4] = torch.randint(1, 4, (count, 4), generator=draw) + 3 * self.labels[:, None]
        self.sizes = torch.randint(6, LENGTH + 1, (count,), generator=draw)
        self.labels[:wrong] = 1 - self.labels[:wrong]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, place):
        return {"input_ids": self.texts[place, : self.sizes[place]], "labels": self.labels[place]}


def padded(samples):
    ids = [sample["input_ids"] for sample in samples]
    batch = {"input_ids": torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)}
    batch["attention_mask"] = (batch["input_ids"] > 0).long()
    return {**batch, "labels": torch.stack([sample["labels"] for sample in samples])}


class ReviewData(L.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(Reviews(KNOWN, 0, WRONG), batch_size=16, shuffle=True, collate_fn=padded)

    def test_dataloader(self):
        return DataLoader(Reviews(TESTED, 1), batch_size=16, collate_fn=padded)


def bert():
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=LENGTH,
        num_labels=2,
        initializer_range=0.2,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return BertForSequenceClassification(config)


class Bert(L.LightningModule):
    def __init__(self, lr=2e-3):
        super().__init__()
        self.save_hyperparameters()
        self.model = bert()

    def forward(self, **batch):
        return self.model(**batch)

    def training_step(self, batch, batch_idx):
        return self(**batch).loss

    def configure_optimizers(self):
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=self.hparams.lr)


class LoraBert(Bert):
    """Adapters, and a head of its own, on a pretrained model, which stays as it is."""

    def __init__(self, pretrained, lr=3e-3):
        super().__init__(lr)
        self.save_hyperparameters()
        self.model.load_state_dict(torch.load(pretrained, weights_only=True))
        self.model = get_peft_model(
            self.model,
            LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=32, target_modules=["query", "value", "dense"]),
        )


class Sentences(Dataset):
    def __init__(self, count, seed):
        self.ids = torch.randint(
            1, VOCABULARY, (count, LENGTH), generator=torch.Generator().manual_seed(seed)
        )

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, place):
        return {
            "input_ids": self.ids[place],
            "attention_mask": torch.ones(LENGTH).long(),
            "labels": self.ids[place],
        }


class SentenceData(L.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(Sentences(20, 0), batch_size=5, shuffle=True)

    def test_dataloader(self):
        return DataLoader(Sentences(20, 1), batch_size=5)


class Gpt(L.LightningModule):
    def __init__(self, lr=5e-3):
        super().__init__()
        self.save_hyperparameters()
        self.model = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=VOCABULARY,
                n_positions=LENGTH,
                n_embd=32,
                n_layer=2,
                n_head=2,
                bos_token_id=0,
                eos_token_id=0,
            )
        )

    def forward(self, **batch):
        return self.model(**batch)

    def training_step(self, batch, batch_idx):
        return self(**batch).loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)


class LoraGpt(Gpt):
    """Adapters on a pretrained causal model, which stays as it is."""

    def __init__(self, pretrained, lr=1e-2):
        super().__init__(lr)
        self.save_hyperparameters()
        self.model.load_state_dict(torch.load(pretrained, weights_only=True))
        layers = ["c_attn", "c_proj", "c_fc"]
        self.model = get_peft_model(
            self.model,
            LoraConfig(
                task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules=layers, fan_in_fan_out=True
            ),
        )


@torch.no_grad()
def completes(model, sentences):
    """Return of each sentence whether the model completes it greedily from its first tokens."""
    ids = sentences[:, :PROMPT]
    model.eval()
    while ids.shape[1] < sentences.shape[1]:
        ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], dim=1)
    return (ids == sentences).all(dim=1)
