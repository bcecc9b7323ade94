"""How the detector comes by its prompts: from boxes, class names and banks, in training and in inference."""

import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_xyxy_to_cxcywh
from torch import Tensor

from dinor1.structures import PromptBatch, PromptSet
from dinor1.utils.errors import InputError
from dinor1.utils.precision import at_least_float32

from ..prompts import PromptDraw, encode_text

_SHARED = ('spatial_shapes', 'level_start_index')


class PromptMixin:
    """The part of :class:`~dinor1.models.DINOR1` between image features and :class:`~dinor1.structures.PromptBatch`.

    It uses the detector's ``prompt_encoder``, ``language_model``, ``text_feat_map``, ``alignment`` and
    ``prompt_refiner``, and has no parameters of its own.
    """

    def encode_boxes(
        self, features: dict[str, Tensor | None], boxes: list[Tensor], batch_data_samples: list[DetDataSample]
    ) -> Tensor:
        """Visual prompt embeddings of boxes on the images that ``features`` are of.

        Args:
            features: From :meth:`encode_image`.
            boxes: Per image (m, 4) pixel xyxy of the network input; not all may be empty.
            batch_data_samples: For the un-padded image sizes.

        Returns:
            (sum m, C) in the order of the images.
        """
        longest = max(len(b) for b in boxes)
        padded = at_least_float32(features['feat']).new_full((len(boxes), longest, 4), 0.5)
        valid = torch.zeros(len(boxes), longest, dtype=torch.bool, device=padded.device)
        for i, (box, sample) in enumerate(zip(boxes, batch_data_samples, strict=True)):
            height, width = sample.img_shape
            padded[i, : len(box)] = bbox_xyxy_to_cxcywh(box / box.new_tensor([width, height, width, height]))
            valid[i, : len(box)] = True
        keys = ('feat', 'feat_mask', 'spatial_shapes', 'level_start_index', 'valid_ratios')
        with self._inference_precision():
            encoded = self.prompt_encoder(padded, **{key: features[key] for key in keys})
        return (encoded if self.training else at_least_float32(encoded))[valid]

    def encode_drawn(
        self,
        features: dict[str, Tensor | None],
        batch_data_samples: list[DetDataSample],
        draw: PromptDraw,
        every_box: bool = False,
    ) -> tuple[PromptBatch, Tensor]:
        """The drawn prompts, shared by all images; also the embeddings of all boxes that were encoded.

        No prompt depends on another: without ``every_box`` only the drawn boxes are encoded.
        """
        all_boxes = [sample.gt_instances.bboxes for sample in batch_data_samples]
        if draw.labels[0] < 0:
            height, width = batch_data_samples[0].img_shape
            all_boxes = [all_boxes[0].new_tensor([[0, 0, width, height]])] + [b[:0] for b in all_boxes[1:]]
        image, box = draw.image, draw.box.clamp(min=0)
        if every_box:
            instances = self.encode_boxes(features, all_boxes, batch_data_samples)
            start = torch.tensor([0] + [len(b) for b in all_boxes[:-1]], device=image.device).cumsum(0)
            embeddings = instances[start[image] + box]
        else:
            drawn = [boxes[box[image == i]] for i, boxes in enumerate(all_boxes)]
            instances = self.encode_boxes(features, drawn, batch_data_samples)
            # encode_boxes orders by image, the draw by class.
            embeddings = instances[image.argsort(stable=True).argsort()]
        if self.prompt_refiner is not None:
            embeddings = self.prompt_refiner(embeddings, draw.names())
        return PromptBatch.shared(embeddings, len(batch_data_samples)), instances

    def text_prompt_set(self, names: list[str]) -> PromptSet:
        """Prompts from class names.

        Raises:
            InputError: the model has no language model.
        """
        if self.language_model is None:
            raise InputError('this model has no language model and takes no text prompts; prompt it with boxes')
        return encode_text(names, self.language_model, self.text_feat_map, per_token=self.text_prompts == 'token')

    def prompt_sets(
        self, features: dict[str, Tensor | None], batch_data_samples: list[DetDataSample]
    ) -> list[PromptSet]:
        """The prompts of each image, from its data sample.

        A sample carries ``prompts`` (a :class:`PromptSet`), or ``prompt_instances`` (``bboxes`` in pixels of the
        network input and ``labels``) with ``prompt_names``, or ``text`` (class names). No boxes in
        ``prompt_instances``: nothing is looked for, and nothing found. With a category graph they are refined along it.

        Raises:
            InputError: an image has no prompts of any kind.
        """
        prompt_sets = []
        for i, sample in enumerate(batch_data_samples):
            if 'prompts' in sample:
                prompt_sets.append(sample.prompts)
            elif 'prompt_instances' in sample:
                one = {k: v if v is None or k in _SHARED else v[i : i + 1] for k, v in features.items()}
                boxes, labels = sample.prompt_instances.bboxes, sample.prompt_instances.labels
                if not len(boxes):
                    prompt_sets.append(PromptSet.nothing(sample.prompt_names, self.query_embedding.weight))
                    continue
                embeddings = self.encode_boxes(one, [boxes], [sample])
                prompt_sets.append(PromptSet.from_exemplars(embeddings, labels, sample.prompt_names))
            elif 'text' in sample:
                prompt_sets.append(self.text_prompt_set(list(sample.text)))
            else:
                raise InputError(
                    f'{sample.get("img_path", "image")}: no prompts; give boxes, class names or a prompt bank'
                )
        return prompt_sets if self.prompt_refiner is None else [self.prompt_refiner.refine(p) for p in prompt_sets]

    def alignment_loss(self, instances: Tensor, labels: list[Tensor], draw: PromptDraw) -> Tensor:
        """Alignment of each class's mean visual prompt (over ``instances`` (n, C)) with the mean of its tokens."""
        # Zero times the text map keeps its parameters in the graph, as DDP requires.
        unused = sum(p.sum() for p in self.text_feat_map.parameters()) * 0
        flat = torch.cat(labels)
        if not len(flat):
            return instances.sum() * 0 + self.alignment.logit_scale * 0 + unused
        member = (flat[None] == draw.labels[:, None]).to(instances.dtype)
        visual = member @ instances / member.sum(1, keepdim=True)
        with torch.no_grad():
            text = encode_text(draw.names(), self.language_model, self.text_feat_map)
        return self.alignment(visual, text.class_embeddings()) + unused
