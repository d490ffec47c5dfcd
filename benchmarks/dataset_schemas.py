"""Columns and types of each visual set on the hub, by its dataset card; some as lmms-eval reads them."""

from __future__ import annotations

from typing import Any

from datasets import Image, List, Value


def texts(*names: str) -> dict[str, Any]:
    """Features of columns with text."""
    return {name: Value("string") for name in names}


STRINGS = List(Value("string"))
MMBENCH = {"index": Value("int64"), **texts("question", "hint", "answer", *"ABCD", "category"), "image": Image()}
MMBENCH |= texts("source", "L2-category", "comment", "split")
SEED = {**texts("answer", *(f"choice_{x}" for x in "abcd"), "data_id", "data_type", "question", "question_id")}
SEED |= {"question_type_id": Value("int16"), "image": List(Image()), "segment": List(Value("int64"))}
TEXTVQA = {**texts("image_id"), "question_id": Value("int32"), **texts("question"), "question_tokens": STRINGS}
TEXTVQA |= {"image": Image(), "image_width": Value("int32"), "image_height": Value("int32")}
TEXTVQA |= {**texts("flickr_original_url", "flickr_300k_url"), "answers": STRINGS, "image_classes": STRINGS}
TEXTVQA |= {**texts("set_name"), "ocr_tokens": STRINGS}
GQA = {**texts("id", "imageId", "question", "answer", "fullAnswer"), "isBalanced": Value("bool")}
GQA |= {"groups": texts("global", "local"), "entailed": Value("string"), "equivalent": Value("string")}
GQA |= {"types": texts("structural", "semantic", "detailed"), "semanticStr": Value("string")}
SCIENCEQA = {"image": Image(), "question": Value("string"), "choices": STRINGS, "answer": Value("int8")}
SCIENCEQA |= texts("hint", "task", "grade", "subject", "topic", "category", "skill", "lecture", "solution")
MMMU = {**texts("id", "question", "options", "explanation"), **{f"image_{i}": Image() for i in range(1, 8)}}
MMMU |= texts("img_type", "answer", "topic_difficulty", "question_type", "subfield")
DOCVQA = {**texts("questionId", "question"), "question_types": STRINGS, "image": Image(), "docId": Value("int64")}
DOCVQA |= {**texts("ucsf_document_id", "ucsf_document_page_no"), "answers": STRINGS, **texts("data_split")}
BOX = {"width": Value("float64"), "height": Value("float64"), "top_left_x": Value("float64")}
BOX |= {"top_left_y": Value("float64")}
OCRVQA = {"image": Image(), **texts("image_id"), "questions": STRINGS, "answers": STRINGS, "ocr_tokens": STRINGS}
OCRVQA |= {"ocr_info": List({"word": Value("string"), "bounding_box": BOX}), **texts("title", "authorName", "genre")}
OCRVQA |= {"image_width": Value("int64"), "image_height": Value("int64"), **texts("image_url", "set_name")}
HALLUSIONBENCH = texts(
    "category", "subcategory", "visual_input", "set_id", "figure_id", "sample_note", "question_id", "question",
    "gt_answer_details", "gt_answer", "filename",
) | {"image": Image()}  # fmt: skip
TABMWP = {**texts("id"), "image": Image(), **texts("question"), "choices": STRINGS}
TABMWP |= {**texts("answer", "unit", "ques_type", "ans_type"), "grade": Value("int32")}
MME = {**texts("question_id"), "image": Image(), **texts("question", "answer", "category")}
GQA_PICTURES = {**texts("id"), "image": Image()}
POPE = {**texts("id", "question_id", "question", "answer", "image_source"), "image": Image(), **texts("category")}
AI2D = {"question": Value("string"), "options": STRINGS, "answer": Value("string"), "image": Image()}
CHARTQA = {**texts("type", "question", "answer"), "image": Image()}
VIZWIZ = {**texts("question_id"), "image": Image(), **texts("question"), "answers": STRINGS, **texts("category")}
