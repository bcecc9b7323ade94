"""Detection with a trained model: images and prompts in, boxes out."""

from dinor1.utils.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        'DINOR1Inferencer': '.inferencer',
        'VisualPrompt': '.visual_prompt',
        'detect_files': '.image_files',
        'gather_prompts': '.prompt_arguments',
        'list_images': '.image_input',
        'output_paths': '.image_files',
        'readable_images': '.image_input',
        'to_coco': '.output_formats',
        'to_supervision': '.output_formats',
        'to_yolo': '.output_formats',
        'write_dataset_bank': '.dataset_bank',
    },
)
