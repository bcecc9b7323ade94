"""Detection with a trained model: images and prompts in, boxes out."""

from dinor1.utils.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        'DINOR1Inferencer': '.inferencer',
        'DetectionCount': '.image_files',
        'VisualPrompt': '.visual_prompt',
        'VideoOptions': '.video_detection',
        'detect_files': '.image_files',
        'detect_videos': '.video_detection',
        'export_detections': '.export',
        'gather_prompts': '.command_line_prompts',
        'label_files': '.labelling',
        'list_images': '.image_input',
        'list_targets': '.targets',
        'output_paths': '.image_files',
        'read_annotated': '.annotated_images',
        'readable_images': '.image_input',
        'readable_videos': '.video_detection',
        'split_videos': '.video_detection',
        'to_coco': '.output_formats',
        'to_labelme': '.output_formats',
        'to_odvg': '.output_formats',
        'to_supervision': '.output_formats',
        'to_yolo': '.output_formats',
        'video_outputs': '.video_detection',
        'write_dataset_bank': '.dataset_bank',
    },
)
