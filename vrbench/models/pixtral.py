"""Pixtral's processor (Mistral 3), as transformers has it, without the torchvision that its module imports."""

from __future__ import annotations

from typing import Any

from transformers.processing_utils import ProcessorMixin


class PixtralProcessor(ProcessorMixin):
    """Replaces each image by a row of marks for each row of patches; a break follows each row, an end the last.

    Attributes:
        image_token, image_break_token, image_end_token: those marks.
        image_token_id, image_token_ids: of the first, and of all three.
        patch_size, spatial_merge_size: pixels along the side of a patch, and patches along that of a mark.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        patch_size: int = 16,
        spatial_merge_size: int = 1,
        chat_template: str | None = None,
        image_token: str = "[IMG]",
        image_break_token: str = "[IMG_BREAK]",
        image_end_token: str = "[IMG_END]",
        **kwargs: Any,
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.patch_size = patch_size
        self.spatial_merge_size = spatial_merge_size
        self.image_token, self.image_break_token, self.image_end_token = image_token, image_break_token, image_end_token
        marks = (image_token, image_break_token, image_end_token)
        self.image_token_ids = [tokenizer.convert_tokens_to_ids(mark) for mark in marks]
        self.image_token_id = self.image_token_ids[0]

    def _process_images(self, images: Any, **settings: Any) -> Any:
        settings["patch_size"] = self.patch_size * self.spatial_merge_size
        return super()._process_images(images, **settings)

    def replace_image_token(self, image_inputs: Any, image_idx: int, **settings: Any) -> str:
        """Return the marks of one image."""
        side = self.patch_size * self.spatial_merge_size
        rows, columns = (int(pixels) // side for pixels in image_inputs["image_sizes"][image_idx])
        row = self.image_token * columns
        return self.image_break_token.join([row] * rows) + self.image_end_token
