"""CLIP's token ids of the words in the class names of VOC and COCO, so that a released checkpoint loads by itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from weakclip.errors import WeightsError

# Ids of OpenAI's byte-pair vocabulary (openai/CLIP, clip/bpe_simple_vocab_16e6.txt.gz, MIT); words are encoded apart.
_WORDS = """
aeroplane 27735 3980; airplane 16451; apple 3055; background 5994; backpack 14894; ball 1069; banana 8922;
baseball 3470; bat 6575; bear 4298; bed 2722; bench 8771; bicycle 11652; bird 3329; blender 25066; boat 4440;
book 1116; bottle 5392; bowl 3814; broccoli 19094; bus 2840; cake 2972; car 1615; carrot 15435; cat 2368; cell
5533; chair 4269; clock 6716; couch 12724; cow 9706; cup 1937; desk 6550; dining 8658; diningtable 1462 653
2175; dog 1929; donut 18471; door 2489; drier 39877; elephant 10299; eye 3272; fire 1769; fork 13700; frisbee
45768; giraffe 22826; glass 3313; glasses 6116; glove 16078; hair 2225; handbag 22654; hat 3801; horse 4558; hot
2069; hydrant 8031 773; keyboard 13017; kite 19867; knife 8960; laptop 10464; light 1395; meter 10104; microwave
24240; mirror 7220; motorbike 33341; motorcycle 10297; mouse 9301; orange 4287; oven 12579; parking 5984; person
2533; phone 1951; pizza 4474; plant 3912; plate 5135; potted 48581; pottedplant 3547 4841 3912; racket 37691;
refrigerator 36662; remote 9687; sandwich 8687; scissors 30867; sheep 9629; shoe 7342; sign 2292; sink 14551;
skateboard 31777; skis 32843; snowboard 33403; sofa 15723; spoon 14024; sports 2054; stop 1691; street 2012;
suitcase 27792; surfboard 10176 1972; table 2175; teddy 11798; tennis 5298; tie 3422; toaster 39061; toilet
11071; toothbrush 36841; traffic 3399; train 3231; truck 4629; tv 1583; tvmonitor 3197 10198; umbrella 17143;
vase 20431; window 4879; wine 2604; zebra 22548
"""
_IDS = {word: tuple(map(int, ids)) for word, *ids in (entry.split() for entry in _WORDS.split(";"))}
_START, _END = 49406, 49407
VOCABULARY_SIZE = 49408


def knows(texts: Iterable[str]) -> bool:
    """Whether every word of these texts is in the list."""
    return all(word in _IDS for text in texts for word in text.lower().split())


class KnownWords:
    """Stands for CLIP's tokenizer where only class names of VOC and COCO are read; another word is an error.

    >>> KnownWords()(["dining table", "cat"])["input_ids"]
    [[49406, 8658, 2175, 49407], [49406, 2368, 49407]]
    """

    pad_token_id = _END

    def __call__(self, texts: Sequence[str]) -> dict[str, list[list[int]]]:
        """Token ids of each text, with start and end token.

        Raises:
            WeightsError: a word that is not in the list.
        """
        words = ([token for word in text.lower().split() for token in self._ids(word)] for text in texts)
        return {"input_ids": [[_START, *ids, _END] for ids in words]}

    def __len__(self) -> int:
        return VOCABULARY_SIZE

    @staticmethod
    def _ids(word: str) -> tuple[int, ...]:
        if word not in _IDS:
            raise WeightsError(
                f"the word {word!r} is not among the class names of VOC and COCO, and no tokenizer was given: pass "
                "`vocabulary`, OpenAI's bpe_simple_vocab_16e6.txt.gz or a folder with tokenizer files"
            )
        return _IDS[word]
